"""Networks by name, with the stem that fits the images.

Pixels in [0,1] go in, normalization is the first layer, logits come out. A new network is one row of
guard.registry.MODELS: a function (classes, image_size, stem, **settings) -> nn.Module that maps normalized
images to logits.
"""

import contextlib
import functools

import torch
from torch import nn

from guard import cli, ending, recipes, registry
from guard.errors import UserError
from guard.registry import MODELS, OF_TORCHVISION
from guard.settings import STEMS


class PixelModel(nn.Module):
    """A network behind its own normalization.

    Its forward pass takes pixels in [0,1], (N, 3, S, S), to logits (N, classes). `network` is the part after
    the normalization, and `normalize` the normalization alone: the regularizers and the recovery work between
    the two. mean, std: of each channel. image_size: S.
    """

    def __init__(self, network, mean, std, image_size):
        super().__init__()
        self.network, self.image_size = network, image_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def normalize(self, pixels):
        """Pixels in [0,1] -> normalized images, both (N, 3, S, S)."""
        return (pixels - self.mean) / self.std

    def denormalize(self, images):
        """Normalized images -> pixels, both (N, 3, S, S)."""
        return images * self.std + self.mean

    def forward(self, pixels):
        return self.network(self.normalize(pixels))


class ConvNet(nn.Sequential):
    """The ConvNet-3 of the dataset-distillation literature (Gidaris and Komodakis, CVPR 2018).

    Each block is a 3x3 convolution of `width` channels, a norm, ReLU and a 2x2 average pool. A linear layer
    follows. norm: 'batch'; or 'instance', of each image and channel alone, with a scale and shift of each
    channel, as in dataset condensation (Zhao et al., ICLR 2021).
    """

    def __init__(self, classes, image_size, width=128, blocks=3, norm="batch"):
        make_norm = {
            "batch": nn.BatchNorm2d,
            "instance": functools.partial(nn.InstanceNorm2d, affine=True),
        }[norm]
        layers = []
        for block in range(blocks):
            channels = width if block else 3
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            # In place it would be slower, on CPUs, and save nothing: the norm does not keep what it gives.
            layers += [convolution, make_norm(width), nn.ReLU(), nn.AvgPool2d(2)]
        side = image_size // 2**blocks
        super().__init__(*layers, nn.Flatten(), nn.Linear(width * side**2, classes))

    def forward(self, images):
        # A forward pass of torch's own is what torch.compile silently leaves alone.
        return super().forward(images)


def convnet(classes, image_size, stem, width, norm="batch"):
    """The ConvNet with three blocks of `width` channels."""
    del stem  # it has but one
    return ConvNet(classes, image_size, width, norm=norm)


def check_name(name):
    """Raises UserError for a name that neither MODELS nor torchvision's classifiers have."""
    if name in MODELS or registry.function_of(f"{OF_TORCHVISION}:has")(name):
        return
    raise UserError(
        f"there is no model '{name}'; ours are {', '.join(MODELS)}, and torchvision's classifiers go by"
        " torchvision's names"
    )


def build(name, *, classes, image_size, stem, mean, std):
    """A fresh PixelModel in train mode.

    classes: number of logits. image_size: side in pixels. stem: 'standard', 'tiny' or 'cifar', read by the
    ResNets. mean, std: of each channel. Raises UserError for an unknown name or stem, and for an image size
    that the network cannot take.
    """
    check_name(name)
    row = MODELS.get(name, registry.Model(f"{OF_TORCHVISION}:classifier", {"name": name}))
    make_network = functools.partial(registry.function_of(row.function), **row.settings)
    if stem not in STEMS:
        raise UserError(f"there is no stem '{stem}'; there are {', '.join(STEMS)}")
    try:
        model = PixelModel(make_network(classes, image_size, stem), mean, std, image_size)
        with torch.no_grad(), frozen_eval(model):
            model(torch.zeros(2, 3, image_size, image_size))
    except (ValueError, RuntimeError, AssertionError, ZeroDivisionError) as problem:
        raise UserError(
            f"the model {name} does not take images of {image_size} pixels ({str(problem)[:80]}); choose"
            " another --image-size"
        ) from None
    return model


def build_like(shape, name):
    """A fresh PixelModel in train mode of the model `name`, for what `shape` says, a Checkpoint or the like.

    shape: has classes (their names), image_size, stem, mean and std. Raises UserError as `build`.
    """
    return build(
        name,
        classes=len(shape.classes),
        image_size=shape.image_size,
        stem=shape.stem,
        mean=shape.mean,
        std=shape.std,
    )


def batch_norm_layers(model):
    """The batch-norm layers of a model that keep running statistics, in the order of registration."""
    found = []
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if module.track_running_stats and module.running_mean is not None:
            found.append(module)
    return found


@torch.no_grad()
def silent_channels(model, pixels, batch_size=32):
    """The channels that a ReLU leaves at zero everywhere in all images: what makes them gets no gradient.

    pixels: (N, 3, S, S) in [0,1]. Returns (name of the layer, number of such channels, number of channels)
    for each time that a ReLU of feature maps is called.
    """
    rows, hooks, parts = [], [], []

    def noted(name, output):
        if output.ndim == 4:
            rows.append((name, output.amax((0, 2, 3)) <= 0))

    for name, module in model.named_modules():
        if isinstance(module, (nn.ReLU, nn.ReLU6)):
            hooks.append(module.register_forward_hook(lambda _, __, output, name=name: noted(name, output)))
    try:
        for part in pixels.split(batch_size):
            model(part)
            parts.append(rows.copy())
            rows.clear()
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for calls in zip(*parts):
        silent = torch.stack([mask for _, mask in calls]).all(0)
        found.append((calls[0][0], int(silent.sum()), len(silent)))
    return found


@contextlib.contextmanager
def own_statistics(model):
    """While inside, the batch norms of a model in eval mode go by the statistics of each mini-batch; their
    running statistics do not move.
    """
    layers = batch_norm_layers(model)
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer in layers:
            layer.training, layer.track_running_stats = False, True


class frozen_eval:
    """While inside, `model` is in eval mode and, with `freeze`, none of its weights asks for a gradient.

    On leaving, each module's mode and each weight's wish are as they were.
    """

    def __init__(self, model, freeze=True):
        self.model, self.freeze = model, freeze

    def __enter__(self):
        self.modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        parameters = list(self.model.parameters()) if self.freeze else []
        self.wishes = [(parameter, parameter.requires_grad) for parameter in parameters]
        for parameter in parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_):
        for module, training in self.modes:
            module.training = training
        for parameter, wanted in self.wishes:
            parameter.requires_grad_(wanted)


def main():
    """python -m guard.networks.models DATASET [--teacher NAME] [--student NAME] ...: run.sh's check of the
    models before any work.
    """
    parser = cli.Parser(
        prog="python -m guard.networks.models",
        description="Builds the named models once.",
    )
    parser.add_argument("dataset")
    parser.add_argument(
        "--teacher",
        metavar="NAME",
        help="a model that is to be trained as a teacher: has to have batch norm where images are recovered",
    )
    parser.add_argument("--student", metavar="NAME", help="a model that is to be trained")
    parser.add_argument(
        "--method", metavar="NAME", choices=registry.IMAGE_METHODS, default="sre2l", help="of the images"
    )
    parser.add_argument("--image-size", type=cli.number(int, low=8), metavar="N", help="[the recipe's]")
    parser.add_argument("--stem", metavar="NAME", choices=STEMS, help="[the recipe's]")
    options = parser.parse_args()
    needed = registry.IMAGE_METHODS[options.method].needs_batch_norm

    def check():
        recipe = recipes.recipe(options.dataset)
        given = {"image_size": options.image_size, "stem": options.stem}
        pretrain = recipes.resolve(options.dataset, "pretrain", given)
        for name in filter(None, (options.teacher, options.student)):
            model = build(
                name,
                classes=10,
                image_size=pretrain.image_size,
                stem=pretrain.stem,
                mean=recipe.mean,
                std=recipe.std,
            )
            if name == options.teacher and needed and not batch_norm_layers(model):
                raise UserError(
                    f"the model {name} has no batch norm, so nothing can be recovered from such a teacher;"
                    " choose another -m"
                )

    ending.run(check)


if __name__ == "__main__":
    main()

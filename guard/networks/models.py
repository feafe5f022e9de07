"""name -> network with the right stem. Pixels in [0,1] go in, normalization is the first layer, logits
come out.

A new model is one row of MODELS: a function (classes, image_size, stem) -> nn.Module that maps
normalized images to logits.
"""

import functools

import torch
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models.vision_transformer import VisionTransformer

from guard import cli, ending, recipes, registry
from guard.errors import UserError
from guard.registry import MODELS
from guard.settings import STEMS


class PixelModel(nn.Module):
    """A network behind its own normalization.

    forward: pixels in [0,1], (N, 3, S, S), to logits (N, classes). `network` is the part after the
    normalization, and `normalize` the normalization alone: the regularizers and the recovery work
    between the two. image_size: S.
    """

    def __init__(self, network, mean, std, image_size):
        super().__init__()
        self.network, self.image_size = network, image_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def normalize(self, pixels):
        return (pixels - self.mean) / self.std

    def denormalize(self, images):
        return images * self.std + self.mean

    def forward(self, pixels):
        return self.network(self.normalize(pixels))


class ConvNet(nn.Sequential):
    """The ConvNet-3 of the dataset-distillation literature (Gidaris and Komodakis 2018), with batch
    norm: three blocks of 3x3 convolution, norm, ReLU and 2x2 average pool, then a linear layer.
    """

    def __init__(self, classes, image_size, width=128, blocks=3):
        layers = []
        for block in range(blocks):
            layers += [
                nn.Conv2d(width if block else 3, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ]
        super().__init__(*layers, nn.Flatten(), nn.Linear(width * (image_size // 2**blocks) ** 2, classes))


def convnet(classes, image_size, stem, width):
    del stem  # it has but one
    return ConvNet(classes, image_size, width)


def resnet(classes, image_size, stem, name):
    network = torchvision_models.get_model(name, weights=None, num_classes=classes)
    if stem != "standard":
        stride, padding = {"tiny": (2, 3), "cifar": (1, 1)}[stem]
        network.conv1 = nn.Conv2d(3, 64, 3, stride, padding, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def vit(classes, image_size, stem, width, heads):
    """A vision transformer of 12 layers with 16x16 patches.

    Small images get the 8x8 patches that 16 pixels would not leave them.
    """
    del stem
    patch = 16 if image_size >= 112 else max(2, image_size // 8)
    return VisionTransformer(
        image_size,
        patch,
        num_layers=12,
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=4 * width,
        num_classes=classes,
    )


def of_torchvision(classes, image_size, stem, name):
    """A classifier of torchvision by torchvision's own name."""
    del stem
    extra = {"image_size": image_size} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        extra |= {"aux_logits": False, "init_weights": True}
    return torchvision_models.get_model(name, weights=None, num_classes=classes, **extra)


def check_name(name):
    """Raises UserError for a name that neither MODELS nor torchvision's classifiers have."""
    if name not in MODELS and name not in torchvision_models.list_models(module=torchvision_models):
        raise UserError(
            f"there is no model '{name}'; ours are {', '.join(MODELS)}, and torchvision's classifiers go by"
            " torchvision's names"
        )


def build(name, *, classes, image_size, stem, mean, std):
    """A fresh PixelModel in train mode.

    classes: number of logits. image_size: side in pixels. stem: 'standard', 'tiny' or 'cifar', read by
    the ResNets. mean, std: of each channel. Raises UserError for an unknown name and for an image size
    that the network cannot take.
    """
    check_name(name)
    row = MODELS.get(name, registry.Model("guard.networks.models:of_torchvision", {"name": name}))
    make = functools.partial(registry.function_of(row.function), **row.settings)
    if stem not in STEMS:
        raise UserError(f"there is no stem '{stem}'; there are {', '.join(STEMS)}")
    try:
        model = PixelModel(make(classes, image_size, stem), mean, std, image_size)
        with torch.no_grad(), frozen_eval(model):
            model(torch.zeros(2, 3, image_size, image_size))
    except (ValueError, RuntimeError, AssertionError, ZeroDivisionError) as problem:
        raise UserError(
            f"the model {name} does not take images of {image_size} pixels ({str(problem)[:80]}); choose"
            " another --image-size"
        ) from None
    return model


def batch_norm_layers(model):
    """The batch-norm layers of a model that keep running statistics, in the order of registration."""
    return [
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
        and m.track_running_stats
        and m.running_mean is not None
    ]


class frozen_eval:
    """While inside, `model` is in eval mode and none of its weights asks for a gradient; on leaving,
    both are as they were.
    """

    def __init__(self, model, freeze=True):
        self.model, self.freeze = model, freeze

    def __enter__(self):
        self.modes = [(m, m.training) for m in self.model.modules()]
        self.grads = [(p, p.requires_grad) for p in self.model.parameters()] if self.freeze else []
        self.model.eval()
        for parameter, _ in self.grads:
            parameter.requires_grad_(False)

    def __exit__(self, *_):
        for module, training in self.modes:
            module.training = training
        for parameter, wanted in self.grads:
            parameter.requires_grad_(wanted)


def main():
    """python -m guard.networks.models DATASET [--teacher NAME] [--student NAME]: run.sh's check of the models
    before any work.
    """
    parser = cli.Parser(
        prog="python -m guard.networks.models",
        description="Builds the named models once, at the data set's image size.",
    )
    parser.add_argument("dataset")
    parser.add_argument(
        "--teacher",
        metavar="NAME",
        help="a model that is to be trained and recovered from: has to have batch norm",
    )
    parser.add_argument("--student", metavar="NAME", help="a model that is to be trained")
    options = parser.parse_args()

    def check():
        recipe = recipes.recipe(options.dataset)
        for name in filter(None, (options.teacher, options.student)):
            model = build(
                name,
                classes=10,
                image_size=recipe.pretrain.image_size,
                stem=recipe.pretrain.stem,
                mean=recipe.mean,
                std=recipe.std,
            )
            if name == options.teacher and not batch_norm_layers(model):
                raise UserError(
                    f"the model {name} has no batch norm, so nothing can be recovered from such a teacher;"
                    " choose another -m"
                )

    ending.run(check)


if __name__ == "__main__":
    main()

"""Networks that torchvision has, or whose layers it has. It takes as long to import as torch does, so what
needs none of them goes without.
"""

from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer


def has(name):
    """Whether torchvision has a classifier of that name."""
    return name in models.list_models(module=models)


def resnet(classes, image_size, stem, name):
    """A ResNet of torchvision with the stem 'standard', 'tiny' or 'cifar'."""
    return _with_stem(models.get_model(name, weights=None, num_classes=classes), stem)


def _with_stem(network, stem):
    """A ResNet of torchvision with this stem in place of its own. 'tiny' and 'cifar' have a first convolution
    of 3x3, with stride 2 and padding 3 or with stride 1 and padding 1, and no max-pool.
    """
    if stem != "standard":
        stride, padding = {"tiny": (2, 3), "cifar": (1, 1)}[stem]
        network.conv1 = nn.Conv2d(3, 64, 3, stride, padding, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def vit(classes, image_size, stem, width, heads):
    """A vision transformer of 12 layers with 16x16 patches.

    width: of its tokens. Images of less than 112 pixels get patches of an eighth of their side, as too few of
    16x16 would be left.
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


def classifier(classes, image_size, stem, name):
    """A classifier of torchvision by torchvision's own name; of them the ResNets have the stem."""
    settings = {}
    if name.startswith("vit_"):
        settings = {"image_size": image_size}
    if name in ("googlenet", "inception_v3"):
        settings = {"aux_logits": False, "init_weights": True}
    network = models.get_model(name, weights=None, num_classes=classes, **settings)
    return _with_stem(network, stem) if isinstance(network, models.ResNet) else network

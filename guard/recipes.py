"""Every default number, by data-set family: one frozen dataclass per stage, one row per family.

A field's metadata is what its flag needs (help, unit, limits); guard.cli makes the flags from it. Only
the standard library is used here, so that flags are checked, and `--help` is printed, before anything
heavy is imported.

    python -m guard.recipes cifar10                    all defaults of a data set
    python -m guard.recipes cifar10 pretrain model     one of them
"""

import dataclasses
import sys
from dataclasses import dataclass, field, fields, replace

from guard import ending
from guard.errors import UserError

AUGMENTATIONS = ("resized-crop", "pad-crop", "shift", "none")
REGULARIZERS = ("gradient-norm", "gradient-squared", "loss")
STEMS = ("standard", "tiny", "cifar")
PRECISIONS = ("fp32", "tf32", "bf16")
PROTOCOLS = ("paper", "standard", "quick", "both")


def setting(
    default, text, *, unit="", choices=None, low=None, high=None, above=None, flag=None, several=False
):
    """A recipe's field: default value, help text, unit, and what is allowed (a closed set, or low <=
    value <= high, above < value; with several, numbers with commas between them make a tuple).
    """
    metadata = {
        "text": text,
        "unit": unit,
        "choices": choices,
        "low": low,
        "high": high,
        "above": above,
        "flag": flag,
        "several": several,
    }
    return field(default=default, metadata=metadata)


def precision():
    """The setting that every stage with a network of its own to run has; evaluation is always in fp32."""
    return setting(
        "fp32",
        "arithmetic of the networks: fp32; tf32, on GPUs that have it; bf16, by autocast",
        choices=PRECISIONS,
    )


def channels_last():
    return setting(
        False,
        "keep the colour channels of a pixel beside each other in memory, which some machines compute faster",
    )


def compiled():
    return setting(
        False,
        "let torch.compile fuse the network's operations: takes a C++ compiler on the CPU, and some minutes"
        " at the start",
    )


def synced_norm():
    return setting(
        False, "with several processes: batch norm over the whole batch instead of over each process's share"
    )


@dataclass(frozen=True)
class Pretrain:
    """The teacher: network, views, optimizer, and what is added to its loss (SPEC of the method: Xue et
    al. 2025, section 4).
    """

    model: str = setting("resnet18", "network of the teacher; one of ours or any classifier of torchvision")
    image_size: int = setting(224, "side of the images that the network sees", unit="pixels", low=8)
    stem: str = setting(
        "standard",
        "first layers of a ResNet: standard, tiny (3x3, stride 2, padding 3) or cifar (3x3, stride 1), the"
        " last two without max-pool",
        choices=STEMS,
    )
    augmentation: str = setting(
        "resized-crop",
        "views in training: resized-crop and pad-crop with flips, shift is a pad-crop without",
        choices=AUGMENTATIONS,
    )
    images: int = setting(0, "train on the first N images of each class; 0 for all", unit="images", low=0)
    epochs: int = setting(50, "passes over the training images", unit="epochs", low=1)
    batch_size: int = setting(32, "images per step", unit="images", low=1)
    learning_rate: float = setting(0.025, "SGD's learning rate, cosine to 0 by epoch", above=0.0)
    momentum: float = setting(0.9, "SGD's momentum", low=0.0, high=1.0)
    weight_decay: float = setting(1e-4, "SGD's weight decay", low=0.0)
    clip_grad_norm: float = setting(
        0.0, "largest norm of the gradient of all weights together; 0 for no clipping", low=0.0
    )
    curvature: bool = setting(False, "GUARD: add the curvature regularizer to the loss")
    regularizer: str = setting("gradient-norm", "form of the curvature regularizer", choices=REGULARIZERS)
    lambda_: float = setting(
        100.0, "coefficient of gradient-norm and gradient-squared", low=0.0, flag="--lambda"
    )
    h: float = setting(
        3.0,
        "length of the step along the gradient, in normalized images; with --adversarial f also the attack's"
        " epsilon, in [0,1] pixels",
        above=0.0,
    )
    curvature_every: int = setting(
        1, "add the regularizers at each N-th step only, with N times their weight", unit="steps", low=1
    )
    gradient_regularization: bool = setting(
        False, "add beta times the mean norm of the input gradient to the loss"
    )
    beta: float = setting(
        1e-4, "coefficient of the loss regularizer, of gradient regularization and of TRADES", low=0.0
    )
    adversarial: str = setting(
        "none", "adversarial training: t (TRADES style), f (ten sign steps)", choices=("none", "t", "f")
    )
    precision: str = precision()
    channels_last: bool = channels_last()
    compile: bool = compiled()
    sync_batch_norm: bool = synced_norm()
    curvature_images: int = setting(
        256,
        "validation images on which the teacher's curvature is measured at the end; 0 for none",
        unit="images",
        low=0,
    )


@dataclass(frozen=True)
class Recover:
    """Images from the teacher's batch-norm statistics (SRe2L, Yin et al. 2023), CDA's curriculum of
    crops (Yin and Shen 2024).
    """

    images_per_class: int = setting(10, "distilled images of each class", unit="images", low=1)
    iterations: int = setting(2000, "steps of Adam on each image", unit="iterations", low=1)
    r_bn: float = setting(0.01, "weight of the batch-norm loss", low=0.0)
    step_size: float = setting(
        0.25, "Adam's step size on normalized images, cosine to 0 by iteration", above=0.0
    )
    beta1: float = setting(0.5, "Adam's decay of the gradient's mean", low=0.0, high=1.0)
    beta2: float = setting(0.9, "Adam's decay of the gradient's square", low=0.0, high=1.0)
    first_layer_weight: float = setting(
        10.0, "weight of the first batch-norm layer; the others have 1", low=0.0
    )
    crop: bool = setting(
        True, "look at a random resized crop, perhaps flipped, in each iteration (--cda does so always)"
    )
    crop_scale: float = setting(
        0.08,
        "smallest share of the area that a crop keeps, and where CDA's curriculum ends",
        above=0.0,
        high=1.0,
    )
    roll: int = setting(32, "largest roll of the view along each axis", unit="pixels", low=0)
    cda: bool = setting(
        False, "CDA: the smallest crop falls from the whole image to the crop scale during the iterations"
    )
    cda_schedule: str = setting(
        "cosine", "how CDA's smallest crop falls", choices=("cosine", "linear", "step")
    )
    cda_milestone: float = setting(
        1.0, "share of the iterations after which CDA's smallest crop stays", above=0.0, high=1.0
    )
    classes_per_problem: int = setting(
        100, "classes that share one problem, one image of each", unit="classes", low=1
    )
    pack_images: int = setting(
        0,
        "images that go through the teacher together, in whole problems, at least one; 0 for as many as the"
        " memory holds, up to 500 on a GPU, 100 on the CPU",
        unit="images",
        low=0,
    )
    precision: str = precision()
    channels_last: bool = channels_last()
    image_format: str = setting(
        "png", "png, rounded; jpg is the original's way: truncated, then lossy", choices=("png", "jpg")
    )


@dataclass(frozen=True)
class Relabel:
    """Soft labels for many views of each distilled image (FKD's way, Shen and Xing 2022)."""

    epochs: int = setting(
        300, "passes over the distilled images, each with its own views", unit="epochs", low=1
    )
    batch_size: int = setting(
        0,
        "images per batch, in relabelling and training alike; 0 for 10 times the images per class, at"
        " most 100",
        unit="images",
        low=0,
    )
    augmentation: str = setting(
        "resized-crop",
        "views of the images: resized-crop and pad-crop with flips, shift is a pad-crop without",
        choices=AUGMENTATIONS,
    )
    mix: str = setting("cutmix", "how the images of a batch are mixed", choices=("cutmix", "mixup", "none"))
    mix_alpha: float = setting(1.0, "both parameters of the mixing weight's Beta distribution", above=0.0)
    precision: str = precision()
    channels_last: bool = channels_last()
    compile: bool = compiled()
    teacher_mode: str = setting(
        "eval",
        "train makes the labels with each batch's own statistics (the original's way on CIFAR)",
        choices=("eval", "train"),
    )


@dataclass(frozen=True)
class Train:
    """The student."""

    model: str = setting("resnet18", "network of the student; one of ours or any classifier of torchvision")
    temperature: float = setting(20.0, "temperature of both softmaxes", above=0.0)
    learning_rate: float = setting(1e-3, "AdamW's learning rate, cosine to 0 by epoch", above=0.0)
    weight_decay: float = setting(
        0.01, "AdamW's weight decay, on weights with more than one dimension", low=0.0
    )
    precision: str = precision()
    channels_last: bool = channels_last()
    compile: bool = compiled()
    sync_batch_norm: bool = synced_norm()
    evaluate_every: int = setting(
        25, "epochs between measurements of the accuracy on val", unit="epochs", low=1
    )


@dataclass(frozen=True)
class Evaluate:
    """Clean and robust accuracy."""

    protocol: str = setting("paper", "frozen set of attacks; both is paper and standard", choices=PROTOCOLS)
    epsilon: float = setting(
        1 / 255,
        "largest change of a pixel in the L-inf attacks; 1/255 is the protocols' own, another makes it"
        " custom",
        unit="[0,1] pixels",
        low=0.0,
        high=1.0,
        several=True,
    )
    images: int = setting(
        0, "attack the first N validation images of each class; 0 for all", unit="images", low=0
    )
    attack_batch: int = setting(
        0,
        "images that an attack works on at a time; 0 for as many as the memory holds, up to 512 on a GPU, 100"
        " on the CPU; no result depends on it",
        unit="images",
        low=0,
    )


STAGES = {"pretrain": Pretrain, "recover": Recover, "relabel": Relabel, "train": Train, "evaluate": Evaluate}


@dataclass(frozen=True)
class Recipe:
    """The five stages' defaults for one family, and how its images are normalized."""

    mean: tuple = (0.485, 0.456, 0.406)
    std: tuple = (0.229, 0.224, 0.225)
    pretrain: Pretrain = Pretrain()
    recover: Recover = Recover()
    relabel: Relabel = Relabel()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()


IMAGENET = Recipe()  # every folder data set without a row of its own

CIFAR10 = Recipe(
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    pretrain=Pretrain(
        image_size=32,
        stem="cifar",
        augmentation="pad-crop",
        epochs=200,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=5e-4,
    ),
    recover=Recover(iterations=1000, crop=False, crop_scale=0.4, roll=4),
    relabel=Relabel(epochs=400, batch_size=128, augmentation="pad-crop", mix="mixup", mix_alpha=0.8),
    train=Train(temperature=30.0),
)

# the embedded set: small enough for two CPU cores, no flips (a mirrored digit is none), and at 12/255
# robustness shows
DIGITS = Recipe(
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pretrain=Pretrain(
        model="convnet-32",
        image_size=16,
        stem="cifar",
        augmentation="shift",
        epochs=30,
        batch_size=64,
        learning_rate=0.05,
        weight_decay=5e-4,
        clip_grad_norm=1.0,
        lambda_=30.0,
        h=1.5,
    ),
    recover=Recover(iterations=300, r_bn=0.1, crop=False, crop_scale=0.4, roll=2),
    relabel=Relabel(epochs=1000, batch_size=25, augmentation="shift", mix="mixup", mix_alpha=0.8),
    train=Train(model="convnet-32", learning_rate=3e-3),
    evaluate=Evaluate(protocol="both", epsilon=12 / 255, images=10),
)

RECIPES = {
    "digits": DIGITS,
    "imagenet": replace(IMAGENET, relabel=Relabel(batch_size=100)),
    "tiny-imagenet": Recipe(
        pretrain=Pretrain(stem="tiny"),  # 64 pixels take the cifar stem: guard.cli.resolve
        recover=Recover(r_bn=1.0, step_size=0.1),
        relabel=Relabel(batch_size=100),
    ),
    "cifar10": CIFAR10,
    "cifar100": replace(CIFAR10, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
}


def recipe(dataset):
    """The recipe of a data set, by name; a name without a row is a folder of the ImageNet family."""
    return RECIPES.get(dataset, IMAGENET)


def relabel_batch_size(batch_size, images_per_class):
    """Images per batch when relabelling: as set, or, where it is 0, 10 * images_per_class up to 100
    (SRe2L's rule for small sets).
    """
    return batch_size or min(100, 10 * images_per_class)


def _print(dataset=None, stage=None, name=None, *more):
    chosen = recipe(dataset)
    known = {row.name for row in fields(STAGES[stage])} if stage in STAGES else set()
    if not dataset or more or (stage and not known) or (name and name not in known):
        raise UserError("no such default; usage: python -m guard.recipes DATASET [STAGE [NAME]]")
    if name:
        print(getattr(getattr(chosen, stage), name))
        return
    for shown in [stage] if stage else STAGES:
        print(f"{shown} ({dataset})")
        for row in fields(STAGES[shown]):
            unit = f" [{row.metadata['unit']}]" if row.metadata["unit"] else ""
            print(
                f"  {row.name.rstrip('_').replace('_', '-'):24}"
                f" {getattr(getattr(chosen, shown), row.name)!s:14} {row.metadata['text']}{unit}"
            )


def as_dict(stage_recipe):
    """A stage's settings as plain values under the names of their flags, for records and manifests."""
    return {name.rstrip("_"): value for name, value in dataclasses.asdict(stage_recipe).items()}


if __name__ == "__main__":
    ending.run(_print, *sys.argv[1:])

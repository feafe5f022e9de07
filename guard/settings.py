"""Every setting of every stage: one frozen dataclass for each stage, its flag's help and limits beside
each field.

guard.cli makes the flags from the fields; guard.recipes holds what a family of data sets has in place of
the defaults here. Only the standard library is used, so that flags are checked, and `--help` is printed,
before anything heavy is imported.
"""

import dataclasses
from dataclasses import dataclass

from guard import registry
from guard import setting_fields as shared
from guard.setting_fields import setting

AUGMENTATIONS = ("resized-crop", "pad-crop", "shift", "none")
STEMS = ("standard", "tiny", "cifar")
PROTOCOLS = (*registry.PROTOCOLS, "both")


@dataclass(frozen=True)
class Pretrain:
    """The teacher: network, views, optimizer, and what is added to its loss (Xue et al. 2025, section 4)."""

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
    learning_rate: float = setting(0.025, "SGD's learning rate, the highest", above=0.0)
    schedule: str = setting(
        "cosine",
        "of the learning rate: cosine, from it to 0 by epoch; one-cycle, up to it and down to 0 by step",
        choices=("cosine", "one-cycle"),
    )
    momentum: float = setting(0.9, "SGD's momentum", low=0.0, below=1.0)
    weight_decay: float = setting(1e-4, "SGD's weight decay", low=0.0)
    clip_grad_norm: float = setting(
        0.0, "largest norm of the gradient of all weights together; 0 for no clipping", low=0.0
    )
    curvature: bool = setting(False, "GUARD: add the curvature regularizer to the loss")
    regularizer: str = setting(
        "gradient-norm", "form of the curvature regularizer", choices=tuple(registry.REGULARIZERS)
    )
    lambda_: float = setting(
        100.0, f"coefficient of {registry.weighed_by('lambda_')}", low=0.0, flag="--lambda"
    )
    h: float = setting(
        3.0, "length of the curvature regularizer's step along the gradient, in normalized images", above=0.0
    )
    loss_beta: float = setting(1e-4, "coefficient of the regularizer loss", low=0.0)
    curvature_every: int = setting(
        1, "add the regularizers at each N-th step only, with N times their weight", unit="steps", low=1
    )
    curvature_statistics: str = setting(
        "running",
        "what batch norm goes by inside the regularizers: its running statistics, as published, or those of"
        " the mini-batch",
        choices=("running", "batch"),
    )
    gradient_regularization: bool = setting(
        False, "add the mean norm of the input gradient, times its beta, to the loss"
    )
    gradient_beta: float = setting(1e-4, "coefficient of gradient regularization", low=0.0)
    flip: bool = shared.flip()
    adversarial: str = setting(
        "none",
        f"adversarial training; {registry.told(registry.ADVERSARIAL_TEACHERS)}",
        choices=("none", *registry.ADVERSARIAL_TEACHERS),
    )
    epsilon: float = setting(
        2 / 255, "epsilon of adversarial training f and n", unit="[0,1] pixels", above=0.0, high=255.0
    )
    trades_beta: float = setting(1e-4, "coefficient of TRADES' divergence in adversarial training t", low=0.0)
    precision: str = shared.precision()
    channels_last: bool = shared.channels_last()
    compile: bool = shared.compiled()
    sync_batch_norm: bool = shared.synced_norm()
    val_images: int = shared.val_images()
    curvature_images: int = setting(
        256,
        "validation images for the teacher's curvature at the end, by the recipe's h; 0 for none",
        unit="images",
        low=0,
    )


@dataclass(frozen=True)
class Recover:
    """Distilled images: SRe2L (Yin et al. 2023), CDA (Yin and Shen 2024), and others, each with its own."""

    method: str = setting(
        "sre2l",
        f"where the images come from; {registry.told(registry.IMAGE_METHODS)}",
        choices=tuple(registry.IMAGE_METHODS),
    )
    images_per_class: int = setting(10, "distilled images of each class", unit="images", low=1)
    start: str = setting(
        "noise",
        "what sre2l and dc start from: noise, or the images that another method makes",
        choices=("noise", *(name for name, row in registry.IMAGE_METHODS.items() if row.can_be_start)),
        of=tuple(name for name, row in registry.IMAGE_METHODS.items() if row.takes_start),
    )
    iterations: int = setting(
        2000,
        "steps of Adam on each image; dc: fresh networks, one after the other",
        unit="iterations",
        low=1,
        of=("sre2l", "dc"),
    )
    r_bn: float = setting(0.01, "weight of the batch-norm loss", low=0.0, of="sre2l")
    step_size: float = setting(
        0.25, "Adam's step size on normalized images, cosine to 0 by iteration", above=0.0, of="sre2l"
    )
    beta1: float = setting(0.5, "Adam's decay of the gradient's mean", low=0.0, below=1.0, of="sre2l")
    beta2: float = setting(0.9, "Adam's decay of the gradient's square", low=0.0, below=1.0, of="sre2l")
    first_layer_weight: float = setting(
        10.0, "weight of the first batch-norm layer; the others have 1", low=0.0, of="sre2l"
    )
    crop: bool = setting(
        True, "look at a random resized crop in each iteration (--cda does so always)", of="sre2l"
    )
    crop_scale: float = setting(
        0.08,
        "smallest share of the area that a crop keeps, and where CDA's curriculum ends",
        above=0.0,
        high=1.0,
        of="sre2l",
    )
    flip: bool = shared.flip()
    roll: int = setting(32, "largest roll along each axis", unit="pixels", low=0, high=4096, of="sre2l")
    cda: bool = setting(False, "CDA: the smallest crop falls from all of it to the crop scale", of="sre2l")
    cda_schedule: str = setting(
        "cosine", "how CDA's smallest crop falls", choices=("cosine", "linear", "step"), of="sre2l"
    )
    cda_milestone: float = setting(
        1.0, "share of the iterations after which CDA's smallest crop stays", above=0.0, high=1.0, of="sre2l"
    )
    classes_per_problem: int = setting(
        100, "classes that share one problem, one image of each", unit="classes", low=1, of="sre2l"
    )
    pack_images: int = setting(
        0,
        "images that go through the teacher together, in whole problems, at least one; 0 for as many as the"
        " memory holds, up to 500 on a GPU, 100 on the CPU",
        unit="images",
        low=0,
    )
    precision: str = shared.precision()
    channels_last: bool = shared.channels_last()
    graphs: str = shared.graphs()
    candidates: int = setting(300, "rded: training images of each class that are looked at", low=1, of="rded")
    crops: int = setting(
        5, "rded: random crops of each of them, of which the best-scored counts", low=1, of="rded"
    )
    crop_area: float = setting(
        0.08, "rded: smallest share of the area that a crop keeps", above=0.0, high=1.0, of="rded"
    )
    stitch: int = setting(
        2, "rded: crops along each side of an image, N x N of them on one", low=1, of="rded"
    )
    matchings: int = setting(
        0, "dc: steps of the images on each network; 0 for as many as images per class", low=0, of="dc"
    )
    network_epochs: int = setting(
        0,
        "dc: epochs of the network on the images between two such steps; 0 for 500 / images per class, but"
        " for one image 1",
        unit="epochs",
        low=0,
        of="dc",
    )
    real_batch: int = setting(
        256, "dc: training images in each class's mini-batch", unit="images", low=1, of="dc"
    )
    image_rate: float = setting(0.1, "dc: SGD's learning rate of normalized images", above=0.0, of="dc")
    image_momentum: float = setting(0.5, "dc: SGD's momentum of the images", low=0.0, below=1.0, of="dc")
    network_rate: float = setting(0.01, "dc: SGD's learning rate of the networks", above=0.0, of="dc")
    network_momentum: float = setting(0.0, "dc: SGD's momentum of the networks", low=0.0, below=1.0, of="dc")
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
    flip: bool = shared.flip()
    mix: str = setting("cutmix", "how the images of a batch are mixed", choices=("cutmix", "mixup", "none"))
    crop_scale: float = setting(
        0.08, "smallest share of the area that a resized crop keeps", above=0.0, high=1.0
    )
    mix_alpha: float = setting(1.0, "both parameters of the mixing weight's Beta distribution", above=0.0)
    precision: str = shared.precision()
    channels_last: bool = shared.channels_last()
    compile: bool = shared.compiled()
    graphs: str = shared.graphs()
    teacher_mode: str = setting(
        "eval",
        "train makes the labels with each batch's own statistics (the original's way on CIFAR)",
        choices=("eval", "train"),
    )
    input_gradients: str = setting(
        "none",
        "what is stored of the gradient of the teacher's cross-entropy by the view's pixels: nothing; its"
        " signs, for adversarial views against the teacher; its values, for --gradient-weight",
        choices=("none", "signs", "values"),
    )
    label_format: str = setting(
        "fp16",
        "how labels are stored: fp16 logits with their views; int8 logits, whose views are drawn again",
        choices=("fp16", "int8"),
    )
    top_classes: int = setting(
        0,
        "store the logits of the K largest classes, and the mean of the others; 0 for all",
        unit="classes",
        low=0,
    )


@dataclass(frozen=True)
class Train:
    """The student."""

    model: str = setting("resnet18", "network of the student; one of ours or any classifier of torchvision")
    loss: str = setting(
        "kl",
        registry.told(registry.STUDENT_LOSSES),
        choices=tuple(registry.STUDENT_LOSSES),
    )
    temperature: float = setting(20.0, "temperature of both softmaxes of kl", above=0.0)
    reuse_labels: bool = setting(
        False, "go through the stored epochs of labels again where --epochs asks for more than there are"
    )
    gradient_weight: float = setting(
        0.0,
        "weight of the distance between the student's and the teacher's input gradients (IKDIGA: 1000); needs"
        " labels with --input-gradients values",
        low=0.0,
    )
    squared_temperature: bool = setting(False, "multiply the divergence by the square of the temperature")
    adversarial_share: float = setting(
        0.0,
        "share of the loss on adversarial views, one step away from the teacher's logits, or from hard labels"
        " where the loss is of these alone: 0 for none, 5/6 is RSLAD's, 1 for these alone",
        low=0.0,
        high=1.0,
    )
    views_against: str = setting(
        "student",
        "whom the step of the adversarial views is against: the student; or the teacher, which costs next to"
        " nothing and needs labels with --input-gradients",
        choices=("student", "teacher"),
    )
    view_epsilon: float = setting(
        2 / 255, "epsilon of the adversarial views", unit="[0,1] pixels", above=0.0, high=1.0
    )
    dsa: bool = setting(
        False, "a kind of differentiable siamese augmentation for each mini-batch (DSA, MTT); for hard labels"
    )
    flip: bool = shared.flip()
    optimizer: str = setting(
        "adamw", "adamw; or sgd, by which DC and MTT judge images", choices=("adamw", "sgd")
    )
    momentum: float = setting(0.9, "SGD's momentum", low=0.0, below=1.0)
    learning_rate: float = setting(1e-3, "the optimizer's learning rate", above=0.0)
    schedule: str = setting(
        "cosine",
        "of the learning rate, by epoch: cosine; step, a tenth of it in the second half (DC, MTT)",
        choices=("cosine", "step"),
    )
    zeta: float = setting(
        1.0, "epochs until the cosine would reach 0, as a multiple of the epochs: EDC's is 2", low=1.0
    )
    weight_average: float = setting(
        0.0,
        "decay of an average of the weights over the steps, which is then the student",
        low=0.0,
        below=1.0,
    )
    weight_decay: float = setting(
        0.01, "weight decay: AdamW's on weights with more than one dimension, SGD's on all", low=0.0
    )
    precision: str = shared.precision()
    channels_last: bool = shared.channels_last()
    compile: bool = shared.compiled()
    graphs: str = shared.graphs()
    sync_batch_norm: bool = shared.synced_norm()
    val_images: int = shared.val_images()
    evaluate_every: int = setting(
        0, "epochs between measurements on val, which change nothing; 0 for ten in all", unit="epochs", low=0
    )


@dataclass(frozen=True)
class Evaluate:
    """Clean and robust accuracy."""

    protocol: str = setting("paper", "frozen set of attacks; both is paper and standard", choices=PROTOCOLS)
    attacks: str = setting("", "with commas, in place of a protocol", names=("attack", registry.ATTACKS))
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


# ---- settings of artifacts -----------------------------------------------------------------------


def as_dict(settings):
    """A stage's settings as plain values under the names of their flags, for records and manifests."""
    return {name.rstrip("_"): value for name, value in dataclasses.asdict(settings).items()}

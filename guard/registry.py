"""Everything that can be chosen by name. Each choice is one row here and one function somewhere.

A row names its function as "module:function". The function is imported when it is first used, so that flags
are checked and `--help` is printed without torch. docs/extending.md adds one choice of each kind.
"""

import functools
import importlib
from types import MappingProxyType
from typing import NamedTuple

# ---- networks ------------------------------------------------------------------------------------


class Model(NamedTuple):
    """function(classes, image_size, stem, **settings) -> nn.Module from normalized images to logits."""

    function: str
    settings: dict


OF_TORCHVISION = "guard.networks.torchvision_models"


def _convnet(width, norm="batch"):
    return Model("guard.networks.models:convnet", {"width": width, "norm": norm})


def _resnet(name):
    return Model(f"{OF_TORCHVISION}:resnet", {"name": name})


MODELS = {
    "convnet": _convnet(128),
    "convnet-32": _convnet(32),
    "convnet-64": _convnet(64),
    "convnet-in": _convnet(128, "instance"),
    "resnet18": _resnet("resnet18"),
    "resnet34": _resnet("resnet34"),
    "resnet50": _resnet("resnet50"),
    "resnet101": _resnet("resnet101"),
    "vit": Model(f"{OF_TORCHVISION}:vit", {"width": 192, "heads": 3}),
    "vits": Model(f"{OF_TORCHVISION}:vit", {"width": 384, "heads": 6}),
    "vitb": Model(f"{OF_TORCHVISION}:classifier", {"name": "vit_b_16"}),
}

# ---- data sets -----------------------------------------------------------------------------------

# name -> function(name, root, split) -> guard.data.find.Source, which names the function that reads it.
# A data set without a row here is class folders, ROOT/NAME/{train,val}/CLASS/*.jpg.
DATA_SETS = {
    "digits": "guard.data.find:digits",
    "cifar10": "guard.data.find:cifar",
    "cifar100": "guard.data.find:cifar",
}

# ---- the teacher's loss --------------------------------------------------------------------------


class Regularizer(NamedTuple):
    """function(at, h, batch_size) -> penalty, a scalar with a graph to the weights.

    at: guard.method.regularizers.AtImages. coefficient: the setting that multiplies the penalty.
    second_order: whether it differentiates the gradient at the images. sums: whether it adds numbers up over
    the group of processes, in which then all processes must take part.
    """

    function: str
    coefficient: str
    second_order: bool = True
    sums: bool = False


REGULARIZERS = {
    "gradient-norm": Regularizer("guard.method.regularizers:gradient_norm", "lambda_"),
    "gradient-squared": Regularizer("guard.method.regularizers:gradient_squared", "lambda_"),
    "loss": Regularizer("guard.method.regularizers:loss_difference", "loss_beta", False, sums=True),
}


def weighed_by(coefficient):
    """Names of the regularizers that a setting is the coefficient of, in words."""
    return " and ".join(name for name, row in REGULARIZERS.items() if row.coefficient == coefficient)


class AdversarialTeacher(NamedTuple):
    """function(model, pixels, labels, *, settings, draws) -> (loss, logits of the images it is a loss of).

    text: for `--help`. one_step: whether it may overfit to its own attack, for which it is then watched.
    """

    function: str
    text: str
    one_step: bool = False


ADVERSARIAL_TEACHERS = {
    "t": AdversarialTeacher("guard.method.adversarial:trades", "TRADES style"),
    "f": AdversarialTeacher("guard.method.adversarial:sign_steps_loss", "ten sign steps"),
    "n": AdversarialTeacher(
        "guard.method.one_step:noisy_step_loss", "N-FGSM, one step from noise", one_step=True
    ),
}


def told(rows):
    """What each of some rows is, as `--help` lists it."""
    return "; ".join(f"{name}: {row.text}" for name, row in rows.items())


# ---- distilled images ----------------------------------------------------------------------------


class ImageMethod(NamedTuple):
    """function(recover.recovery.Request) -> recover.recovery.Plan.

    text: for `--help`. needs_training_images: whether it looks at the training set, and so takes --root.
    needs_batch_norm: whether it recovers from the teacher's running statistics. can_be_start: whether others
    may start from its images. takes_start: whether it is one of those others.
    """

    function: str
    text: str
    needs_training_images: bool = False
    needs_batch_norm: bool = False
    can_be_start: bool = False
    takes_start: bool = False


IMAGE_METHODS = {
    "sre2l": ImageMethod(
        "recover.sre2l:plan",
        "recovered from the teacher's running statistics",
        needs_batch_norm=True,
        takes_start=True,
    ),
    "rded": ImageMethod(
        "recover.rded:plan",
        "the crops of training images that the teacher scores best",
        needs_training_images=True,
        can_be_start=True,
    ),
    "random": ImageMethod(
        "recover.random_images:plan",
        "real training images, drawn at random",
        needs_training_images=True,
        can_be_start=True,
    ),
    "dc": ImageMethod(
        "recover.dc:plan",
        "gradients of fresh networks on them match those on training images",
        needs_training_images=True,
        takes_start=True,
    ),
}


def methods_of(settings):
    """Names of the image methods that `settings` (settings.Recover, or a dict of them) make use of."""
    settings = settings if isinstance(settings, dict) else vars(settings)
    method, start = settings["method"], settings.get("start", "noise")
    return [method, start] if IMAGE_METHODS[method].takes_start and start != "noise" else [method]


# ---- the student's loss --------------------------------------------------------------------------


class StudentLoss(NamedTuple):
    """function(student_logits, teacher_logits, targets, temperature) -> mean loss of the mini-batch.

    All (N, classes); targets: the share of each class in each image, as hard labels mixed like the images.
    text: for `--help`. takes_squared: whether it takes `squared`, too: to multiply by temperature^2, for
    --squared-temperature. reads_teacher: whether it reads teacher_logits; where not, adversarial views are
    against the targets.
    """

    function: str
    text: str
    takes_squared: bool = False
    reads_teacher: bool = True


STUDENT_LOSSES = {
    "kl": StudentLoss(
        "guard.method.losses:kullback_leibler", "divergence from the teacher's softmax", takes_squared=True
    ),
    "mse": StudentLoss("guard.method.losses:squared_error", "squared error of the logits"),
    "cross-entropy": StudentLoss(
        "guard.method.losses:hard_cross_entropy", "hard labels alone", reads_teacher=False
    ),
    "kl+cross-entropy": StudentLoss(
        "guard.method.losses:half_cross_entropy", "half of kl and half of cross-entropy", takes_squared=True
    ),
}

# ---- attacks -------------------------------------------------------------------------------------


class Attack(NamedTuple):
    """function(model, images, labels, *, epsilon, draws, batch_size, **settings) -> (adversarial, broken).

    The function gets images that the model classifies correctly; guard.attacks.slots tells how to work only
    on those that still stand. text: for reports. norm: in which the result stays within epsilon, or None.
    parts: of a sequence, which has no function, the attacks that each work on what the ones before left.
    """

    function: str | None
    text: str
    settings: MappingProxyType = MappingProxyType({})
    norm: str | None = "L-inf"
    parts: tuple = ()


_SIGN_STEPS = "guard.attacks.gradient_signs:sign_steps"
_PGD = {"relative_step": 0.25, "random_start": True}
_AUTO_PGD, _TARGETED_DLR = "guard.attacks.apgd:auto_pgd", "guard.attacks.apgd:targeted_auto_pgd"
_FAB = "guard.attacks.fab:targeted_fab"
TARGETS = 9  # classes that a targeted attack tries, or all others where a model has fewer than ten

ATTACKS = {
    "fgsm": Attack(
        _SIGN_STEPS, "one step of epsilon along the gradient's sign", {"relative_step": 1.0, "steps": 1}
    ),
    "pgd20": Attack(_SIGN_STEPS, "PGD, 20 steps of epsilon/4, random start", {**_PGD, "steps": 20}),
    "pgd100": Attack(_SIGN_STEPS, "PGD, 100 steps of epsilon/4, random start", {**_PGD, "steps": 100}),
    "pgd100-l2": Attack(
        "guard.attacks.gradient_signs:gradient_steps",
        "PGD in L2, 100 steps of epsilon/4, random start",
        {"relative_step": 0.25, "steps": 100},
        norm="L2",
    ),
    "mim": Attack(
        _SIGN_STEPS,
        "momentum iterative, 20 steps of epsilon, decay 1",
        {"relative_step": 1.0, "steps": 20, "decay": 1.0},
    ),
    "cw": Attack(
        "guard.attacks.cw:carlini_wagner",
        "Carlini-Wagner, L2, c 1e-4, 50 steps, unbounded",
        {"c": 1e-4, "kappa": 0.0, "steps": 50, "learning_rate": 0.01},
        norm=None,
    ),
    "square": Attack(
        "guard.attacks.square_attack:square",
        "Square, 5000 queries, p 0.8",
        {"queries": 5000, "p_init": 0.8},
    ),
    "apgd-ce": Attack(_AUTO_PGD, "APGD on the cross-entropy, 100 steps", {"steps": 100}),
    "apgd-dlr": Attack(
        _TARGETED_DLR,
        "APGD on the targeted DLR loss, 100 steps for each of 9 targets",
        {"steps": 100, "targets": TARGETS},
    ),
    "fab": Attack(_FAB, "targeted FAB, 100 steps for each of 9 targets", {"steps": 100, "targets": TARGETS}),
    "apgd-ce-10": Attack(_AUTO_PGD, "APGD on the cross-entropy, 10 steps", {"steps": 10}),
    "apgd-dlr-10": Attack(
        _TARGETED_DLR,
        "APGD on the targeted DLR loss, 10 steps for each of 9 targets",
        {"steps": 10, "targets": TARGETS},
    ),
    "fab-10": Attack(_FAB, "targeted FAB, 10 steps for each of 9 targets", {"steps": 10, "targets": TARGETS}),
    "autoattack": Attack(
        None, "AutoAttack, version standard", parts=("apgd-ce", "apgd-dlr", "fab", "square")
    ),
    "autoattack-paper": Attack(
        None,
        "AutoAttack with 10 steps, as published",
        parts=("apgd-ce-10", "apgd-dlr-10", "fab-10", "square"),
    ),
}

# Frozen sets of attacks: every caller names one of these. Another set of attacks is no protocol.
PROTOCOLS = {
    "paper": ("pgd100", "square", "autoattack-paper", "cw", "mim"),
    "standard": ("pgd100", "square", "autoattack", "cw", "mim"),
    "quick": ("pgd20",),
}
PROTOCOL_EPSILON = 1 / 255  # in [0,1] pixels; another epsilon makes a protocol 'custom'

# ---- from a row to its function ------------------------------------------------------------------


def function_of(name):
    """The function that a row names as "module:function". A function itself is returned as it is."""
    return name if callable(name) else _imported(name)


@functools.cache
def _imported(name):
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)

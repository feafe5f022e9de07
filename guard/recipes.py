"""Every default number, by data-set family: one row per family, with what differs from guard.settings.

python -m guard.recipes cifar10                    all defaults of a data set
python -m guard.recipes cifar10 pretrain model     one of them
python -m guard.recipes cifar10 --recipe modern    with a named recipe of labels and student
"""

import sys
from dataclasses import dataclass, field, fields, replace

from guard import ending
from guard.errors import UserError
from guard.settings import STAGES, Evaluate, Pretrain, Recover, Relabel, Train


@dataclass(frozen=True)
class Recipe:
    """The five stages' defaults for one family, and how its images are normalized."""

    mean: tuple = (0.485, 0.456, 0.406)
    std: tuple = (0.229, 0.224, 0.225)
    pretrain: Pretrain = field(default_factory=Pretrain)
    recover: Recover = field(default_factory=Recover)
    relabel: Relabel = field(default_factory=Relabel)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    native_size: int = 0  # images up to this size take the stem cifar, which keeps all of their pixels


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
    recover=Recover(iterations=1000, crop=False, crop_scale=0.4, roll=4, stitch=1, crop_area=0.5),
    relabel=Relabel(epochs=400, batch_size=128, augmentation="pad-crop", mix="mixup", mix_alpha=0.8),
    train=Train(temperature=30.0),
)

# the embedded set: small enough for two CPU cores, no flips (a mirrored digit is none), and at 12/255
# robustness shows; in fp32, which takes these networks milliseconds a step, so that processors agree better
DIGITS = Recipe(
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pretrain=Pretrain(
        model="convnet-32",
        image_size=16,
        stem="cifar",
        augmentation="shift",
        flip=False,
        epochs=30,
        batch_size=64,
        learning_rate=0.05,
        weight_decay=5e-4,
        clip_grad_norm=1.0,
        h=1.5,
        precision="fp32",
    ),
    recover=Recover(
        iterations=300,
        r_bn=0.1,
        crop=False,
        crop_scale=0.4,
        flip=False,
        roll=2,
        stitch=1,
        crop_area=0.5,
        precision="fp32",
    ),
    relabel=Relabel(
        epochs=1000,
        batch_size=25,
        augmentation="shift",
        flip=False,
        mix="mixup",
        mix_alpha=0.8,
        precision="fp32",
    ),
    train=Train(model="convnet-32", learning_rate=3e-3, flip=False, precision="fp32"),
    evaluate=Evaluate(protocol="both", epsilon=12 / 255, images=10),
)

RECIPES = {
    "digits": DIGITS,
    "imagenet": replace(IMAGENET, relabel=Relabel(batch_size=100)),
    "tiny-imagenet": Recipe(
        pretrain=Pretrain(stem="tiny"),
        recover=Recover(r_bn=1.0, step_size=0.1),
        relabel=Relabel(batch_size=100),
        native_size=64,
    ),
    "cifar10": CIFAR10,
    "cifar100": replace(CIFAR10, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
}


def recipe(dataset):
    """The recipe of a data set, by name; a name without a row is a folder of the ImageNet family."""
    return RECIPES.get(dataset, IMAGENET)


BY_SGD = {
    "loss": "cross-entropy",  # with the images' own labels
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.01,
    "schedule": "step",
    "weight_decay": 5e-4,
}

# Named recipes of the student, in place of the family's rows: stage -> settings.
STUDENT_RECIPES = {
    "paper": {},
    # What a student of few images needs: small mini-batches, strong crops, a low temperature, and a loss
    # whose size does not depend on it.
    "modern": {
        "relabel": {
            "epochs": 600,
            "batch_size": 50,
            "augmentation": "resized-crop",
            "crop_scale": 0.25,
            "mix": "cutmix",
            "mix_alpha": 1.0,
        },
        "train": {"temperature": 4.0, "squared_temperature": True, "learning_rate": 2e-3},
    },
    # How those who distil by gradients (Zhao et al., ICLR 2021) and by trajectories (Cazenavette et al., CVPR
    # 2022) train on their images.
    "dc": {
        "relabel": {"epochs": 300, "batch_size": 256, "augmentation": "none", "mix": "none"},
        "train": BY_SGD,
    },
    "mtt": {
        "relabel": {"epochs": 1000, "batch_size": 256, "augmentation": "none", "mix": "none"},
        "train": {**BY_SGD, "dsa": True},
    },
}


def resolve(dataset, stage, given, student_recipe="paper"):
    """The settings of a stage for a data set: the family's, those of a named recipe, those `given`.

    given: name of a field -> value, or None where it is not given. The later ones count.
    """
    given = {name: value for name, value in given.items() if value is not None}
    chosen = recipe(dataset)
    base = replace(getattr(chosen, stage), **STUDENT_RECIPES[student_recipe].get(stage, {}))
    if stage == "pretrain" and given.get("image_size", base.image_size) <= chosen.native_size:
        given = {"stem": "cifar", **given}
    return replace(base, **given)


def relabel_batch_size(batch_size, images_per_class):
    """Images per batch when relabelling: as set, or, where it is 0, 10 * images_per_class up to 100
    (SRe2L's rule for small sets).
    """
    return batch_size or min(100, 10 * images_per_class)


def text_of(row, value):
    """A setting's value as one would type it. row: its field in guard.settings."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value * 255:.6g}/255" if row.metadata["unit"] == "[0,1] pixels" else f"{value:.6g}"
    return str(value)


USAGE = "python -m guard.recipes DATASET [STAGE [NAME]] [--recipe NAME]"


def _without_recipe(words):
    """(the words but for --recipe NAME, NAME)."""
    if "--recipe" not in words:
        return words, "paper"
    place = words.index("--recipe")
    return words[:place] + words[place + 2 :], "".join(words[place + 1 : place + 2])


def _print(*words):
    if {"--help", "-h"} & {*words}:
        print(f"usage: {USAGE}\nprints the defaults of a data set: {', '.join(RECIPES)}, or any other name")
        print(f"by a recipe of labels and student: {', '.join(STUDENT_RECIPES)} [paper]")
        return
    words, student_recipe = _without_recipe(words)
    dataset, stage, name, *more = *words, *[None] * (3 - len(words))
    known = {row.name for row in fields(STAGES[stage])} if stage in STAGES else set()
    if name:  # as it is printed below, or as the setting is called
        name = next((each for each in known if each.rstrip("_") == name.replace("-", "_").rstrip("_")), name)
    known_words = (not stage or known) and (not name or name in known) and student_recipe in STUDENT_RECIPES
    if not dataset or "/" in dataset or more or not known_words:
        raise UserError(f"no such default; usage: {USAGE}")
    if name:
        print(getattr(resolve(dataset, stage, {}, student_recipe), name))
        return
    for shown in [stage] if stage else STAGES:
        print(f"{shown} ({dataset}{'' if dataset in RECIPES else ': of any folder of images'})")
        for row in fields(STAGES[shown]):
            unit = f" [{row.metadata['unit']}]" if row.metadata["unit"] else ""
            value = text_of(row, getattr(resolve(dataset, shown, {}, student_recipe), row.name))
            print(f"  {row.name.rstrip('_').replace('_', '-'):24} {value:14} {row.metadata['text']}{unit}")


if __name__ == "__main__":
    ending.run(_print, *sys.argv[1:])

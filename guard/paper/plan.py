"""Which runs the published tables are made of. Only the standard library.

A new table is one row of TABLES. Flags are written as one would type them.
"""

from dataclasses import dataclass

from guard.errors import UserError
from guard.paper.arms import (
    BEST,
    BY_RECIPE,
    CURVATURE,
    DC,
    DC_OF_100,
    DIGITS,
    FRONTIER,
    LABEL_BYTES,
    METHODS,
    RESNET18,
    STUDENT_SETTINGS,
    TRIED,
)

# ---- scales --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """How a data set of the tables is run at a scale.

    dataset: its name for -d; flags: of run.sh; stages: more flags of the stages; images_per_class: those
    that stand for the table's (but see OWN_SIZE); classes: of the subset, where it is one of the table's
    data set.
    """

    dataset: str
    flags: str = ""
    stages: str = ""
    images_per_class: tuple = ()
    classes: str = ""


ENOUGH = 625  # attacked images that leave a standard error of at most 2 points: 50 / sqrt(625)
_SMALL = "-m convnet-32 -e convnet-32 -b 1"
# paper: the published settings; recipe: those of the data set's own recipe; full-cpu: all of CIFAR-10, by
# networks that a CPU trains; cpu: small parts and networks
SCALES = {
    "paper": {
        "imagenette": Setting("imagenette", "-b 10.0"),
        "tiny-imagenet": Setting("tiny-imagenet"),
        "imagenet": Setting("imagenet"),
        "cifar10": Setting("cifar10"),
    },
    "recipe": {"digits": Setting("digits", stages="train --protocol both --images 0")},
    "full-cpu": {
        "cifar10": Setting(
            "cifar10",
            "-m convnet -e convnet -R modern -b 1 -i 600",
            "pretrain --epochs 8 --schedule one-cycle --curvature-every 4 --precision bf16 --channels-last"
            " recover --precision bf16 --channels-last relabel --precision bf16 --channels-last"
            " train --precision bf16 --channels-last --attacks pgd100 --images 100",
        )
    },
    "cpu": {
        "imagenette": Setting(
            "imagenette-3",
            f"{_SMALL} -i 100 -z 100",
            "pretrain --image-size 64 --stem cifar --images 200 --epochs 8 --curvature-images 60"
            " train --images 209",  # of each of 3 classes: 627, which are ENOUGH
            images_per_class=(1, 10),
            classes="n01440764,n02979186,n03028079",
        ),
        "cifar10": Setting(
            "cifar10",
            f"{_SMALL} -i 150 -z 100",
            "pretrain --images 200 --epochs 6 --curvature-images 100"
            " train --images 63 --protocol both",  # of each of 10 classes: 630, which are ENOUGH
            images_per_class=(1, 5),
        ),
        # the lambda of these runs, which is not the recipe's
        "digits": Setting("digits", "-z 500 -l 30", "pretrain --curvature-images 100"),
    },
}

# ---- tables --------------------------------------------------------------------------------------

GRADIENT_REGULARIZATION = tuple(f"gr-{beta}" for beta in ("1e-4", "1e-3", "1e-2", "0.1", "1"))
REGULARIZERS = ("sre2l", "guard", "guard-squared", "guard-loss", "gr-30")


def _varied(settings):
    """GUARD, and each of the varied settings: 'lambda-10 h-1' are guard-lambda-10 and guard-h-1."""
    return ("guard", *(f"guard-{setting}" for setting in settings.split()), "guard-jpg", "guard-train-mode")


def _goals(names):
    return tuple(f"goal-{name}" for name in names.split())


# table -> {data set: (images per class, arms)}
TABLES = {
    "main": {
        "imagenette": ((10, 50, 100), ("sre2l", "guard")),
        "tiny-imagenet": ((10, 50, 100), ("sre2l", "guard")),
        "imagenet": ((10, 50), ("sre2l", "guard")),
    },
    "adversarial-training": {"imagenette": ((1, 10), ("sre2l", "guard", "adv-t", "adv-f"))},
    "gradient-regularization": {"imagenette": ((1, 10, 50), ("sre2l", "guard", *GRADIENT_REGULARIZATION))},
    "other-methods": {"cifar10": ((1, 10, 50), ("sre2l", "guard", "cda", "cda+guard"))},
    "regularizers": {"imagenette": ((10,), REGULARIZERS), "cifar10": ((10,), REGULARIZERS)},
    "swap": {"cifar10": ((10,), REGULARIZERS), "digits": ((10,), REGULARIZERS)},
    "variations": {
        "imagenette": (
            (10,),
            _varied("lambda-1 lambda-10 lambda-30 h-1 h-6 r_bn-0.01 r_bn-0.1 r_bn-100 epochs-15 epochs-100"),
        ),
        "cifar10": ((10,), _varied("lambda-10 lambda-1000 h-1 h-6 r_bn-0.1 r_bn-10 epochs-15")),
        "digits": (
            (10,),
            _varied("lambda-3 lambda-10 lambda-100 h-0.5 h-3 r_bn-0.01 r_bn-1 r_bn-10 epochs-10 epochs-100"),
        ),
    },
    "digits": {"digits": ((10,), tuple(DIGITS))},
    "frontier": {"cifar10": ((10,), tuple(FRONTIER))},
    "student-settings": {"cifar10": ((10,), (BEST, *STUDENT_SETTINGS))},
    "label-bytes": {"cifar10": ((10,), (BEST, *LABEL_BYTES))},
    "goal-1": {"cifar10": ((1,), _goals("epochs-6000 random-epochs-6000 random-teacher-40-epochs-6000"))},
    "goal-10": {
        "cifar10": (
            (10,),
            _goals(
                "epochs-3000 random-epochs-3000 random-teacher-40-epochs-3000"
                " random-gradients-epochs-3000 random-nfgsm+guard-batch-epochs-3000"
                " random-labels-600-epochs-3000 random-labels-200-epochs-3000"
            ),
        )
    },
    "goal-50": {
        "cifar10": (
            (50,),
            _goals(
                "epochs-600 random-epochs-600 random-teacher-40-epochs-2400"
                " random-teacher-40-gradients-epochs-2400 random-nfgsm+guard-batch-epochs-2400"
                " random-teacher-40-labels-2400-epochs-4800"
            ),
        )
    },
    "methods": {"cifar10": ((1, 10, 50), tuple(METHODS))},
    "methods-dc-1": {"cifar10": ((1,), tuple(DC))},
    "methods-dc-10": {"cifar10": ((10,), tuple(DC_OF_100))},
    "methods-resnet18": {"cifar10": ((10,), tuple(RESNET18))},
    "recipes": {
        "cifar10": ((10,), tuple(one for arm in BY_RECIPE for one in (arm.removesuffix("/paper"), arm)))
    },
    "curvature": {"cifar10": ((10,), (*(f"random/{teacher}" for teacher in TRIED), *CURVATURE))},
    "images-or-labels": {"cifar10": ((10,), ("sre2l/plain", "sre2l/guard", "sre2l/nfgsm"))},
}
# table -> its arm of a plain teacher: to its images go the labels of each other arm, and the other way round
SWAPS = {"swap": "sre2l", "images-or-labels": "sre2l/plain"}
# tables with columns of two epsilons, one of which is that of a curve
AT_TWO_EPSILONS = (
    "frontier",
    "recipes",
    "student-settings",
    "label-bytes",
    "curvature",
    "images-or-labels",
    "goal-1",
    "goal-10",
    "goal-50",
)
# scale -> its own tables, which no other scale has
OWN_TABLES = {
    "recipe": ("digits",),
    "full-cpu": (
        "frontier",
        "recipes",
        "student-settings",
        "label-bytes",
        "goal-1",
        "goal-10",
        "goal-50",
        "methods",
        "methods-dc-1",
        "methods-dc-10",
        "methods-resnet18",
        "curvature",
        "images-or-labels",
    ),
}
# tables that are not about the published sizes: they keep their images per class at every scale
OWN_SIZE = ("swap", "variations")


def scales_of(table):
    """The scales at which a table has runs."""
    own = [scale for scale, tables in OWN_TABLES.items() if table in tables]
    others = [scale for scale in SCALES if scale not in OWN_TABLES]
    return [scale for scale in own or others if set(TABLES[table]) & set(SCALES[scale])]


def attacks_of(table, scale, dataset):
    """(protocol, images of each class) that a table's students are attacked by, where these are not the
    scale's; else (None, None).

    Students of swapped labels and of varied settings differ by little, which takes many images to see.
    """
    if scale == "cpu" and table in OWN_SIZE and dataset in ("cifar10", "digits"):
        return "quick", 100
    return None, None


# ---- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedRun:
    """One run of run.sh. images_from, labels_from: arms whose teachers make the images and the labels."""

    dataset: str
    images_per_class: int
    images_from: str
    labels_from: str
    seed: int

    @property
    def swapped(self):
        """Whether images and labels come from teachers of different arms."""
        return self.images_from != self.labels_from

    @property
    def arm(self):
        return f"images {self.images_from}, labels {self.labels_from}" if self.swapped else self.images_from

    @property
    def name(self):
        arm = self.arm.replace(", ", "-")
        for letter in " +/":
            arm = arm.replace(letter, "-")
        return f"{self.dataset}-ipc{self.images_per_class}-{arm}-seed{self.seed}"


def runs_of(table, scale, *, datasets=None, images_per_class=None, arms=None, seeds=(0,)):
    """The runs of a table at a scale, those first whose teachers others need. In a table of SWAPS an arm's
    images also get the plain teacher's labels, and the other way round. Raises UserError for what the table
    does not have.
    """
    if scale not in scales_of(table):
        raise UserError(
            f"table {table} has no runs at scale {scale}; it has at {' and '.join(scales_of(table))}"
        )
    rows = {name: row for name, row in TABLES[table].items() if name in SCALES[scale]}
    known = {arm for name, (_, of_row) in rows.items() if name in (datasets or rows) for arm in of_row}
    for given, there, what in ((datasets, set(rows), "data set"), (arms, known, "arm")):
        if unknown := sorted(set(given or ()) - there):
            raise UserError(
                f"table {table} has no {what} {unknown[0]} at scale {scale}; it has"
                f" {', '.join(sorted(there))}"
            )
    found = []
    for name, (published, of_row) in rows.items():
        if datasets and name not in datasets:
            continue
        own = () if table in OWN_SIZE else SCALES[scale][name].images_per_class
        pairs = [(arm, arm) for arm in of_row if not arms or arm in arms]
        if plain := SWAPS.get(table):
            for arm, _ in pairs[:]:
                pairs += [(arm, plain), (plain, arm)] if arm != plain else []
        for seed in dict.fromkeys(seeds):
            for count in dict.fromkeys(images_per_class or own or published):
                found += [PlannedRun(name, count, images, labels, seed) for images, labels in pairs]
    return sorted(found, key=lambda run: run.swapped)

"""The cells of the published tables: which there are at which scale, and the run.sh command of each.
Only the standard library.

A cell is a data set, images per class, an arm (how the teacher is trained and the images are recovered)
and a seed. A new table is one row of TABLES, a new arm one of ARMS.
"""

from dataclasses import dataclass

from guard.errors import UserError

FORMAT = "guard-cell-1"


@dataclass(frozen=True)
class Arm:
    """teacher: part of its id; flags: of run.sh; stages: more flags of the stages, each after its
    stage's name.
    """

    teacher: str
    flags: tuple = ()
    stages: tuple = ()


ARMS = {
    "sre2l": Arm("plain"),
    "guard": Arm("guard", ("-C",)),
    "guard-squared": Arm(
        "guard-squared", ("-C",), ("pretrain", "--regularizer", "gradient-squared", "--lambda", "0.03")
    ),
    "guard-loss": Arm("guard-loss", ("-C", "-B", "1"), ("pretrain", "--regularizer", "loss")),
    **{
        f"gr-{beta}": Arm(f"gr-{beta}", ("-G", "-B", beta))
        for beta in ("1e-4", "1e-3", "1e-2", "0.1", "1", "30")
    },
    "adv-t": Arm("adv-t", ("-v", "t")),
    "adv-f": Arm("adv-f", ("-v", "f", "-h", "8/255")),  # its epsilon; the published one is not known
    "cda": Arm("plain", ("-A",)),
    "cda+guard": Arm("guard", ("-A", "-C")),
}
# GUARD with one setting changed, of the teacher or of a later stage
VARIATIONS = {
    **{
        f"guard-lambda-{value}": Arm(f"guard-lambda-{value}", ("-C", "-l", value))
        for value in ("1", "3", "10", "30", "100", "1000")
    },
    **{f"guard-h-{value}": Arm(f"guard-h-{value}", ("-C", "-h", value)) for value in ("0.5", "1", "3", "6")},
    **{
        f"guard-epochs-{value}": Arm(f"guard-epochs-{value}", ("-C",), ("pretrain", "--epochs", value))
        for value in ("10", "15", "100")
    },
    **{
        f"guard-r_bn-{value}": Arm("guard", ("-C", "-b", value))
        for value in ("0.01", "0.1", "1", "10", "100")
    },
    "guard-jpg": Arm("guard", ("-C",), ("recover", "--image-format", "jpg")),
    "guard-train-mode": Arm("guard", ("-C",), ("relabel", "--teacher-mode", "train")),
}
ARMS |= VARIATIONS


@dataclass(frozen=True)
class Scale:
    """How a data set of the tables is run: its name for -d, flags of run.sh, more flags of the stages,
    the images per class that stand for the table's (but see OWN_SIZE), and, where it is a subset of the
    table's data set, its classes.
    """

    dataset: str
    flags: tuple = ()
    stages: tuple = ()
    images_per_class: tuple | None = None
    classes: str = ""


_SMALL = ("-m", "convnet-32", "-e", "convnet-32", "-b", "1")
SCALES = {
    "paper": {
        name: Scale(name, ("-b", "10.0") if name == "imagenette" else ())
        for name in ("imagenette", "tiny-imagenet", "imagenet", "cifar10")
    },
    "cpu": {
        "imagenette": Scale(
            "imagenette-3",
            (*_SMALL, "-i", "100", "-z", "100"),
            (
                "pretrain",
                "--image-size",
                "64",
                "--stem",
                "cifar",
                "--images",
                "200",
                "--epochs",
                "8",
                "--curvature-images",
                "60",
                "train",
                "--images",
                "10",
            ),
            (1, 10),
            "n01440764,n02979186,n03028079",
        ),
        "cifar10": Scale(
            "cifar10",
            (*_SMALL, "-i", "150", "-z", "100"),
            (
                "pretrain",
                "--images",
                "200",
                "--epochs",
                "6",
                "--curvature-images",
                "100",
                "train",
                "--images",
                "10",
                "--protocol",
                "both",
            ),
            (1, 5),
        ),
        "digits": Scale("digits", ("-z", "500"), ("pretrain", "--curvature-images", "100")),
    },
}

GRADIENT_REGULARIZATION = tuple(f"gr-{beta}" for beta in ("1e-4", "1e-3", "1e-2", "0.1", "1"))
REGULARIZERS = ("guard", "guard-squared", "guard-loss", "gr-30")
ONCE = ("guard-jpg", "guard-train-mode")


def _varied(setting, *values):
    return tuple(f"guard-{setting}-{value}" for value in values)


# table -> {data set: (images per class, arms)}; in the swap an arm's images also get the plain teacher's
# labels, and the other way round
TABLES = {
    "main": {
        "imagenette": ((10, 50, 100), ("sre2l", "guard")),
        "tiny-imagenet": ((10, 50, 100), ("sre2l", "guard")),
        "imagenet": ((10, 50), ("sre2l", "guard")),
    },
    "adversarial-training": {"imagenette": ((1, 10), ("sre2l", "guard", "adv-t", "adv-f"))},
    "gradient-regularization": {"imagenette": ((1, 10, 50), ("sre2l", "guard", *GRADIENT_REGULARIZATION))},
    "other-methods": {"cifar10": ((1, 10, 50), ("sre2l", "guard", "cda", "cda+guard"))},
    "regularizers": {
        "imagenette": ((10,), ("sre2l", *REGULARIZERS)),
        "cifar10": ((10,), ("sre2l", *REGULARIZERS)),
    },
    "swap": {"cifar10": ((10,), ("sre2l", *REGULARIZERS)), "digits": ((10,), ("sre2l", *REGULARIZERS))},
    "variations": {
        "imagenette": (
            (10,),
            (
                "guard",
                *_varied("lambda", "1", "10", "30"),
                *_varied("h", "1", "6"),
                *_varied("r_bn", "0.01", "0.1", "100"),
                *_varied("epochs", "15", "100"),
                *ONCE,
            ),
        ),
        "cifar10": (
            (10,),
            (
                "guard",
                *_varied("lambda", "10", "1000"),
                *_varied("h", "1", "6"),
                *_varied("r_bn", "0.1", "10"),
                *_varied("epochs", "15"),
                *ONCE,
            ),
        ),
        "digits": (
            (10,),
            (
                "guard",
                *_varied("lambda", "3", "10", "100"),
                *_varied("h", "0.5", "3"),
                *_varied("r_bn", "0.01", "1", "10"),
                *_varied("epochs", "10", "100"),
                *ONCE,
            ),
        ),
    },
}
OWN_SIZE = ("swap", "variations")  # tables that keep their images per class at every scale
# (table, data set) -> (protocol, images of each class) of the attacks at CPU size, where it is not the
# recipe's and the scale's: students of
# swapped labels and of varied settings differ by little, which takes many images to see
ATTACKED = {(table, name): ("quick", 100) for table in OWN_SIZE for name in ("cifar10", "digits")}


@dataclass(frozen=True)
class Cell:
    """One run of run.sh. images, labels: arms whose teachers make them."""

    dataset: str
    images_per_class: int
    images: str
    labels: str
    seed: int

    @property
    def arm(self):
        return self.images if self.images == self.labels else f"images {self.images}, labels {self.labels}"

    @property
    def name(self):
        arm = self.arm.replace(", ", "-").replace(" ", "-").replace("+", "-")
        return f"{self.dataset}-ipc{self.images_per_class}-{arm}-seed{self.seed}"


def cells_of(table, scale, *, datasets=None, images_per_class=None, arms=None, seeds=(0,)):
    """The cells of a table at a scale, those first whose teachers others need. Raises UserError for what
    the table does not have.
    """
    rows = {name: row for name, row in TABLES[table].items() if name in SCALES[scale]}
    for given, known, what in (
        (datasets, rows, "data set"),
        (arms, {arm for _, row in rows.values() for arm in row}, "arm"),
    ):
        if unknown := sorted(set(given or ()) - set(known)):
            raise UserError(
                f"table {table} has no {what} {unknown[0]} at scale {scale}; it has"
                f" {', '.join(sorted(known))}"
            )
    found = []
    for name, (counts, all_arms) in rows.items():
        if datasets and name not in datasets:
            continue
        counts = (
            images_per_class or (table not in OWN_SIZE and SCALES[scale][name].images_per_class) or counts
        )
        chosen = [arm for arm in all_arms if not arms or arm in arms]
        found += [Cell(name, count, arm, arm, seed) for seed in seeds for count in counts for arm in chosen]
        if table == "swap":
            pairs = [pair for arm in chosen if arm != "sre2l" for pair in ((arm, "sre2l"), ("sre2l", arm))]
            found += [Cell(name, count, *pair, seed) for seed in seeds for count in counts for pair in pairs]
    return sorted(found, key=lambda cell: cell.images != cell.labels)


def command_of(cell, scale, *, root, output, device=None, protocol=None, images=None):
    """The words of the cell's `bash run.sh`."""
    setting, arm = SCALES[scale][cell.dataset], ARMS[cell.images]
    own = cell.images == cell.labels
    words = [
        "bash",
        "run.sh",
        "-d",
        setting.dataset,
        "-r",
        str(root),
        "-o",
        str(output),
        "-x",
        cell.name,
        "-y",
        f"{arm.teacher}-{cell.seed}",
        "-c",
        str(cell.images_per_class),
        "-s",
        str(cell.seed),
    ]
    words += ["-p"] if own else ["-Y", f"{ARMS[cell.labels].teacher}-{cell.seed}"]
    words += [
        *setting.flags,
        *(arm.flags if own else [flag for flag in arm.flags if flag == "-A"]),
        *(["-u", device] if device else []),
    ]
    stages = [*setting.stages, *(arm.stages if own else ())]
    stages += ["train", "--protocol", protocol] if protocol else []
    stages += ["train", "--images", str(images)] if images is not None else []
    return [*words, "--", *stages] if stages else words

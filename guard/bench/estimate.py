"""About how long a run.sh takes here: its stages' pieces are timed at their true sizes, and multiplied."""

import dataclasses
import functools
import shlex
import subprocess
from typing import NamedTuple

from guard import attacks, cli
from guard.attacks import robustness
from guard.attacks.prepare import prepared
from guard.bench import units
from guard.data import find, images
from guard.errors import UserError
from guard.run import precision
from guard.run.devices import ready
from recover import dc

START = 4.0  # seconds in which a stage's python starts and reads its data
STANDING = 0.5  # share of the images that an attack still works on, on average
MOST = 100  # images of a timed recovery, labelling or attack; more are multiplied
CONDENSED = 2  # classes of a timed step of method dc
# passes forward, and forward and backward, over each image that stands; of a sequence those of its parts
PASSES = {
    "fgsm": (0, 1),
    "pgd20": (0, 20),
    "pgd100": (0, 100),
    "pgd100-l2": (0, 100),
    "mim": (0, 20),
    "cw": (0, 50),
    "square": (5000, 0),
    "apgd-ce": (0, 100),
    "apgd-dlr": (0, 900),
    "fab": (0, 1800),
    "apgd-ce-10": (0, 10),
    "apgd-dlr-10": (0, 90),
    "fab-10": (0, 180),
}
UNKNOWN = PASSES["pgd100"]  # an attack that is not among them


class Size(NamedTuple):
    """Numbers of a data set's training images, validation images and classes."""

    train: int
    val: int
    classes: int


# as published: what is not there yet has its estimate, too
SIZES = {
    "cifar10": Size(50_000, 10_000, 10),
    "cifar100": Size(50_000, 10_000, 100),
    "imagenette": Size(9_469, 3_925, 10),
    "tiny-imagenet": Size(100_000, 10_000, 200),
    "imagenet": Size(1_281_167, 50_000, 1_000),
}


def stages_of(words):
    """{stage: options} of the commands that `bash run.sh ...` stands for. Raises UserError with run.sh's
    own line.
    """
    place = words.index("--") if "--" in words else len(words)
    done = subprocess.run([*words[:place], "-n", *words[place:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("error: "))
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith("#"):
            continue
        words_of_stage = shlex.split(line)[2:]
        stage, *argv = words_of_stage[2:] if words_of_stage[0] == "guard.launch" else words_of_stage
        found[stage] = cli.stage_options(stage, argv)
    return found


def seconds_of(words, teachers, size=None):
    """Seconds that `words` (bash run.sh ...) take on this machine, about; None where the data are not there,
    and their size is not among SIZES.

    teachers: (data set, network, id) of the teachers that earlier runs make, and the same with 'evaluated' of
    those that they attack; this run's are added. size: a Size to take whatever is there.
    """
    stages = stages_of(words)
    train = stages["train"]
    size = size or _size_of(train.dataset, train.root)
    if size is None:
        return None
    counts, classes, device = {"train": size.train, "val": size.val}, size.classes, ready(train.device)

    def resolved(options, stage):
        return precision.settled(cli.resolve(options, train.dataset, stage), {}, device)

    pretrain = resolved(stages["pretrain"], "pretrain") if "pretrain" in stages else None
    shape = pretrain or cli.resolve(train, train.dataset, "pretrain")
    total = 4 * START
    teacher = (train.dataset, shape.model, words[words.index("-y") + 1] if "-y" in words else "1")
    of_labels = words[words.index("-Y") + 1] if "-Y" in words else teacher[2]
    attacked_teacher = (*teacher[:2], of_labels, "evaluated")  # once for all of its students
    attacked_networks = 1 if attacked_teacher in teachers else 2
    teachers.add(attacked_teacher)
    if pretrain and teacher not in teachers:
        teachers.add(teacher)
        trained = min(counts["train"], classes * pretrain.images) if pretrain.images else counts["train"]
        total += (
            pretrain.epochs
            * (trained / pretrain.batch_size)
            * _teacher(pretrain, train.dataset, classes, device)
        )
    recover, relabel = resolved(stages["recover"], "recover"), resolved(stages["relabel"], "relabel")
    student, evaluate = resolved(train, "train"), cli.resolve(train, train.dataset, "evaluate")
    network = train.dataset, shape.model, shape.image_size, shape.stem, classes, device
    distilled = recover.images_per_class * classes
    of_labels, of_student, forward, both = _rest(relabel, student, min(distilled, MOST), *network)
    if recover.method == "sre2l":
        held = max(1, min(recover.images_per_class, MOST // classes))
        fewer = {"iterations": units.iterations(device), "images_per_class": held, "pack_images": MOST}
        of_image = _recovery(dataclasses.replace(recover, **fewer), *network)
        total += recover.iterations * distilled * of_image
    elif recover.method == "dc":
        total += recover.iterations * _condensation(recover, shape, train.dataset, classes, device)
    # the other methods take next to no time
    total += distilled * (relabel.epochs * of_labels + (train.epochs or relabel.epochs) * of_student)
    attacked = min(counts["val"], classes * evaluate.images) if evaluate.images else counts["val"]
    alone, pairs = passes(robustness.names_of(evaluate))
    return total + attacked_networks * STANDING * attacked * (alone * forward + pairs * both)


def passes(names):
    """(forward, forward and backward) over each image that stands, of all attacks of these names: a sequence
    takes over what is known of its parts. Raises UserError for a name that is no attack.
    """
    rows = {name: attacks.ATTACKS[name] for name in robustness.check_names(names)}
    parts = dict.fromkeys(part for name, row in rows.items() for part in row.parts or (name,))
    return [sum(counts) for counts in zip(*(PASSES.get(part, UNKNOWN) for part in parts))]


def _size_of(dataset, root):
    try:
        train, val = (find.find(dataset, root, split) for split in ("train", "val"))
    except UserError:
        return SIZES.get(dataset)
    return Size(_count(train), _count(val), len(train.classes))


@functools.cache
def _count(source):
    return len(
        source.labels or images.load(source, image_size=8)
    )  # only class folders are listed before they are read


@functools.cache
def _teacher(settings, dataset, classes, device):
    """Seconds of a training step, on average."""
    steps = units.teacher_steps(settings, dataset, classes, device)
    return units.about({"steps": steps}, device)["steps"] / settings.curvature_every


@functools.cache
def _recovery(recover, dataset, model, size, stem, classes, device):
    """Seconds of an iteration on an image."""
    layout = {"channels_last": recover.channels_last}
    teacher = units.network(dataset, model, size, stem, classes, device, **layout).eval()
    few = min(classes, MOST)
    run = units.recover_iterations(recover, teacher, few, device)
    images_and_iterations = recover.images_per_class * few * recover.iterations
    return units.about({"recover": run}, device)["recover"] / images_and_iterations


@functools.cache
def _condensation(recover, teacher_settings, dataset, classes, device):
    """Seconds of method dc on one network, of which one step and one epoch are timed, of few classes: both
    take as long as there are many.
    """
    few = min(classes, CONDENSED)
    given = teacher_settings, dataset, few, device
    one, two = (
        units.network_of_condensation(dataclasses.replace(recover, matchings=count, network_epochs=1), *given)
        for count in (1, 2)
    )
    found = units.about({"one step": one, "two steps and an epoch": two}, device)
    step = found["one step"]
    epoch = max(0.0, found["two steps and an epoch"] - 2 * step)
    steps, epochs = dc.loops(recover)
    return (steps * step + (steps - 1) * epochs * epoch) * classes / few


@functools.cache
def _rest(relabel, student, count, dataset, model, size, stem, classes, device):
    """Seconds for an image: an epoch of labels and one of the student, of `count` images; an attack's pass
    forward, and one forward and back, of as many as are timed at most, since attacks take many at a time.
    """
    shape, layout = (dataset, model, size, stem, classes, device), {"channels_last": relabel.channels_last}
    teacher = units.network(*shape, **layout, compile=relabel.compile).eval()
    held, seen = (units.random_images(each, classes, size, device) for each in (count, MOST))
    pixels, labels = seen.pixels.float() / 255, seen.labels.to(device)
    attacked = prepared(units.network(*shape).eval(), pixels)
    found = units.about(
        {
            "relabel": units.label_epoch(relabel, teacher, held),
            "student": units.student_epoch(student, relabel, teacher, stem, dataset, held, device),
            "forward": functools.partial(attacks.wrong, attacked, pixels, labels, len(labels)),
            "both": units.input_gradient(attacked, pixels, labels),
        },
        device,
    )
    of_one = {"relabel": len(held), "student": len(held), "forward": len(seen), "both": len(seen)}
    return [found[name] / images for name, images in of_one.items()]

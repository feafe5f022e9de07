"""Whether a device computes what the CPU computes: the checks of `python -m guard.bench doctor`.

Each check yields rows: check, found, wanted, and passed, which is None where the check is none for this
device. The work is that of the stages, with their own functions.
"""

import contextlib
import copy
import dataclasses
import functools
import io
import tempfile
from pathlib import Path

import numpy
import torch
from PIL import Image

from guard.attacks import robustness
from guard.bench import attack_speed, exactness, measure, units
from guard.bench.exactness import CLASSES, COUNT, CPU, SIZE, row
from guard.data import find, images, loading
from guard.distilled import soft_labels
from guard.errors import first_line
from guard.networks import memory
from guard.recipes import recipe
from guard.run import graphs
from pretrain import teacher
from recover import sre2l
from train import student

ATTACKS, ATTACKED = ("pgd20", "apgd-ce-10", "apgd-dlr-10", "square"), 100  # names; images
ITERATIONS = 8  # and epochs: so many that captured steps are replayed


def _trained(precision, device):
    """Weights after a few steps with the curvature regularizer."""
    model, pixels, labels, _ = exactness.there(exactness.NETWORKS[0], device, torch.float32)
    settings = units.with_regularizer(recipe("cifar10").pretrain, "gradient-norm")
    optimizer = torch.optim.SGD(model.train().parameters(), 0.01, momentum=0.9)

    def loss():
        given = {"batch_size": COUNT, "step": 0, "draws": None}
        return teacher.teacher_loss(settings, model, pixels, labels, **given)[0]

    units.optimizing(optimizer, 3 * [loss], precision, device)()
    return [weight.detach() for weight in model.parameters()]


def _recovered(precision, device, mode="auto"):
    model = exactness.there(exactness.NETWORKS[0], device, torch.float32)[0]
    changes = {"iterations": ITERATIONS, "precision": precision, "graphs": mode}
    settings = dataclasses.replace(recipe("cifar10").recover, **changes)
    pack = sre2l.problems_of(CLASSES, COUNT // CLASSES, CLASSES)
    return sre2l.recover_pack(settings, model, pack, 0, device)


def _distilled(device):
    pixels, labels, _ = exactness.data()
    classes = tuple(str(label) for label in range(CLASSES))
    return images.Packed((255 * pixels).round().to(torch.uint8), labels, classes).to(device)


def _labelled(precision, device, mode="auto"):
    model = exactness.there(exactness.NETWORKS[0], device, torch.float32)[0]
    labelling = soft_labels.LabelRecipe(batch_size=COUNT // 2, precision=precision, graphs=mode)
    step, held = soft_labels.labelling_step(model, labelling, device), _distilled(device)
    epochs = [soft_labels.make_epoch(model, held, labelling, epoch, step) for epoch in range(ITERATIONS)]
    return [torch.from_numpy(numpy.stack([rows["logits"] for rows in epochs]))]


def _taught(precision, device, mode="auto"):
    model = exactness.there(exactness.NETWORKS[0], device, torch.float32)[0]
    changes = {"precision": precision, "graphs": mode}
    settings = dataclasses.replace(recipe("cifar10").train, model=exactness.NETWORKS[0], **changes)
    labelling, held = soft_labels.LabelRecipe(batch_size=COUNT // 2, precision="fp32"), _distilled(device)
    optimizer = student.optimizer_of(model, settings)
    step = student.training_step(settings, model, optimizer, device)
    for epoch in range(ITERATIONS):
        rows = soft_labels.draw_epoch(labelling, COUNT, SIZE, CLASSES, epoch)
        rows["logits"] = exactness.data()[2].numpy()
        given = {"rows": rows, "recipe": labelling, "distilled": held, "device": device}
        student.epoch_of(settings, model, step, **given, seed_key=(0, epoch))
    return [weight.detach() for weight in model.parameters()]


STAGES = {"teacher": _trained, "recovery": _recovered, "labels": _labelled, "student": _taught}


def twice(device):
    """A stage's steps, done again, give the same bits."""
    for stage, work in STAGES.items():
        for precision in exactness.precisions_of(device):
            first, again = (work(precision, device) for _ in range(2))
            same = all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
            found = "the same bits" if same else "other bits"
            yield row(f"{stage}, {precision}, twice", found, "the same bits", same)


def captured(device):
    """Steps that are CUDA graphs against operations one by one: they differ in rounding."""
    for stage in ("recovery", "labels", "student"):
        check = f"{stage}, captured"
        if not graphs.captures("auto", device):
            yield row(check, "no CUDA graphs on this device", "", None)
            continue
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            with_graphs, without = (
                exactness.flat(STAGES[stage]("fp32", device, mode)) for mode in ("auto", "off")
            )
        distance = float((with_graphs - without).norm() / without.norm())
        refused = told.getvalue().strip()
        found = refused or f"{distance:.2g} from single operations"
        yield row(check, found, "at most 0.01", not refused and distance <= 0.01)


def estimated_memory(device):
    """Of a recovery's iteration, against what it is taken to need when images are packed."""
    for name in exactness.NETWORKS:
        model = exactness.there(name, device, torch.float32)[0]
        pack = sre2l.problems_of(CLASSES, 5, CLASSES)
        changes = {"iterations": 1, "precision": "fp32", "graphs": "off"}
        settings = dataclasses.replace(recipe("cifar10").recover, **changes)
        work = functools.partial(sre2l.recover_pack, settings, model, pack, 0, device)
        work()  # in which libraries take memory of their own
        used = measure.peak_of(work, device) / (5 * CLASSES)
        taken = memory.OVERHEAD * memory.kept_per_image(model, SIZE)
        found = f"{used / 1e6:.2f} MB for each image"
        yield row(f"memory of recovery, {name}", found, f"at most {taken / 1e6:.2f} MB", used <= taken)


def halving(device):
    """Work that does not fit is done in halves."""
    check = "no memory for all images at once"
    if device.type != "cuda":
        yield row(check, "not tried on a CPU, whose memory is everybody's", "", None)
        return
    model = exactness.there("resnet18", device, torch.float32)[0]
    settings = dataclasses.replace(recipe("cifar10").recover, iterations=1, precision="fp32", graphs="off")
    pack = sre2l.problems_of(CLASSES, 100, CLASSES)

    def recovered(count):
        parts = [pack[first : first + count] for first in range(0, len(pack), count)]
        return torch.cat([sre2l.recover_pack(settings, model, part, 0, device)[0] for part in parts])

    half = len(pack) // 2
    recovered(half)
    need = measure.peak_of(functools.partial(recovered, half), device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    limit = (torch.cuda.memory_allocated(device) + 1.5 * need) / total
    told = io.StringIO()
    torch.cuda.set_per_process_memory_fraction(min(limit, 1.0), device)
    try:
        with contextlib.redirect_stderr(told):
            found = memory.halved_when_full(recovered, len(pack), "problems")
    except RuntimeError as problem:
        yield row(check, first_line(problem), "goes on with half", False)
        return
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    halved = "going on with" in told.getvalue()
    whole = len(found) == len(pack) and bool(found.isfinite().all())
    yield row(check, told.getvalue().strip() or "it fitted", "goes on with half", halved and whole)


def workers(device):
    """Processes that decode files, started when the device is in use, give the same mini-batches."""
    torch.zeros(1, device=device)
    with tempfile.TemporaryDirectory() as folder:
        draws = numpy.random.default_rng(0)
        for label in ("one", "two"):
            place = Path(folder) / "train" / label
            place.mkdir(parents=True)
            for number in range(6):
                pixels = draws.integers(0, 256, (40, 40, 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
        source = find.scan("doctor", Path(folder) / "train", "train")
        held = images.Streamed(source.files, torch.tensor(source.labels), source.classes)
        views = {"augmentation": "resized-crop", "batch_size": 4, "size": 32, "seed": 0, "epoch": 0}
        epoch = loading.TrainingEpoch(held, **views)
        alone, beside = ([*loading.batches(epoch, count, device)] for count in (0, 2))
    same = len(alone) == len(beside) == 3
    for one, other in zip(alone, beside):
        same = same and all(torch.equal(*pair) for pair in zip(one, other))
    found = "the same mini-batches" if same else "other mini-batches"
    yield row("two workers that decode", found, "the same mini-batches", same)


@functools.cache
def _attackable():
    """A network on the CPU that knows the digits."""
    return attack_speed.small_networks(epochs=3, names=["plain"])["plain"]


def attacked(device):
    """Robust accuracy of the same network, on the device and on the CPU."""
    model = _attackable()
    source = find.find("digits", ".", "val")
    held = images.load(source, 16).subset(torch.arange(ATTACKED))
    for name in ATTACKS:
        accuracies = []
        for place in (CPU, device):
            given = {"attack_batch": 0, "seed": 0, "workers": 0, "size": 16, "epsilon": 12 / 255}
            there = copy.deepcopy(model).to(place)
            with contextlib.redirect_stdout(io.StringIO()):  # a line for each attack
                results = robustness.evaluate(there, held.to(place), names=[name], device=place, **given)
            accuracies.append(results["attacks"][name]["accuracy"])
        here, there = accuracies
        found, wanted = f"{there:.2f} % robust", f"{here:.2f} %, as on the CPU, give or take 1"
        yield row(f"attack {name}", found, wanted, abs(there - here) <= 1)


CHECKS = (exactness.against_float64, twice, captured, estimated_memory, halving, workers, attacked)

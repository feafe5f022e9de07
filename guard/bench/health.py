"""Whether a device computes what the CPU computes: the checks of `python -m guard.bench doctor`.

Each check yields rows: check, found, wanted, and passed, which is None where the check is none for this
device. The work is that of the stages, with their own functions, at sizes that float64 on a CPU can follow.
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
from guard.bench import attack_speed, measure, units
from guard.data import find, images, loading
from guard.distilled import soft_labels
from guard.errors import first_line
from guard.networks import memory, models
from guard.recipes import recipe
from guard.run import graphs
from guard.run.devices import computing
from pretrain import teacher
from recover import sre2l
from train import student

CPU = torch.device("cpu")
CLASSES, SIZE, COUNT, STEM = 10, 32, 20, "cifar"
NETWORKS = ("convnet", "resnet18")
# ||device - float64|| / ||float64|| of a gradient or of logits, at most. An untrained ResNet-18 is the worst:
# on a CPU its gradient is 0.005 away in fp32, and 0.31 in bf16. What is wrong is about 1 away.
TOLERANCES = {"fp32": 0.01, "tf32": 0.1, "bf16": 0.4}
ATTACKS, ATTACKED = ("pgd20", "apgd-ce-10", "apgd-dlr-10", "square"), 100  # names; images
ITERATIONS = 8  # and epochs: so many that captured steps are replayed


def row(check, found, wanted, passed):
    return {"check": check, "found": found, "wanted": wanted, "passed": passed}


def precisions_of(device):
    """tf32 is a matter of GPUs."""
    return [name for name in TOLERANCES if name != "tf32" or device.type == "cuda"]


# ---- what is computed ----------------------------------------------------------------------------


@functools.cache
def _made(name):
    """A network on the CPU in float64, with running statistics of its own data."""
    made = units.network("cifar10", name, SIZE, STEM, CLASSES, CPU)
    with torch.no_grad():
        for _ in range(3):
            made.train()(_data()[0].float())
    return made.double().eval()


@functools.cache
def _data():
    """(pixels, labels, logits): of images that differ by class, and of a teacher."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) % CLASSES
    pixels = torch.rand(COUNT, 3, SIZE, SIZE, generator=draws, dtype=torch.float64)
    pixels = (pixels + labels.view(-1, 1, 1, 1) / CLASSES) / 2
    return pixels, labels, torch.randn(COUNT, CLASSES, generator=draws, dtype=torch.float64)


def _there(name, device, dtype, channels_last=False):
    """(network, pixels, labels, logits) on the device, in the type."""
    model = copy.deepcopy(_made(name)).to(device=device, dtype=dtype)
    if channels_last:
        model.network.to(memory_format=torch.channels_last)
    pixels, labels, logits = _data()
    return model, pixels.to(device, dtype), labels.to(device), logits.to(device, dtype)


def _flat(gradients):
    return torch.cat([each.flatten() for each in gradients]).double().cpu()


def teacher_gradient(regularizer, name, device, dtype, precision, channels_last=False):
    """Of all weights, of a teacher's step."""
    model, pixels, labels, _ = _there(name, device, dtype, channels_last)
    settings = units.with_regularizer(recipe("cifar10").pretrain, regularizer)
    with computing(precision, device):
        given = {"batch_size": COUNT, "step": 0, "draws": None}
        loss, _ = teacher.teacher_loss(settings, model.train(), pixels, labels, **given)
        return _flat(torch.autograd.grad(loss, list(model.parameters())))


def recovery_gradient(name, device, dtype, precision, channels_last=False):
    """Of the images, of an iteration of the recovery."""
    model, pixels, _, _ = _there(name, device, dtype, channels_last)
    settings = recipe("cifar10").recover
    pack = sre2l.problems_of(CLASSES, COUNT // CLASSES, CLASSES)
    objective = sre2l.Objective(settings, model.network, pack, 0, SIZE, device, dtype)
    x = model.normalize(pixels).detach().requires_grad_()
    with models.frozen_eval(model), objective.statistics, computing(precision, device):
        losses = objective(x, *objective.view(0))
        return _flat(torch.autograd.grad(sum(each.sum() for each in losses), x))


def logits(name, device, dtype, precision, channels_last=False):
    """Of the teacher, as they are stored."""
    model, pixels, _, _ = _there(name, device, dtype, channels_last)
    labelling = soft_labels.LabelRecipe(precision=precision, graphs="off")
    (found,) = soft_labels.labelling_step(model.eval(), labelling, device)(pixels)
    return _flat([found])


def student_gradient(name, device, dtype, precision, channels_last=False):
    """Of all weights, of a student's step."""
    model, pixels, labels, teacher_logits = _there(name, device, dtype, channels_last)
    targets = torch.nn.functional.one_hot(labels, CLASSES).to(dtype)
    settings = recipe("cifar10").train
    with computing(precision, device):
        loss = student.student_loss(settings, model.train(), pixels, teacher_logits, targets)
        return _flat(torch.autograd.grad(loss, list(model.parameters())))


STEPS = {
    "plain": functools.partial(teacher_gradient, "plain"),
    "gradient-norm": functools.partial(teacher_gradient, "gradient-norm"),
    "recovery": recovery_gradient,
    "labels": logits,
    "student": student_gradient,
}


# ---- checks --------------------------------------------------------------------------------------


def against_float64(device):
    """Each stage's step against float64 on the CPU.

    In bf16 and tf32 a step that is too far from it is no fault of the device: it is not chosen there.
    """
    for step, work in STEPS.items():
        for name in NETWORKS:
            exact = work(name, CPU, torch.float64, "fp32")
            for precision in precisions_of(device):
                check, most = f"{step}, {name}, {precision}, against float64", TOLERANCES[precision]
                try:
                    found = work(name, device, torch.float32, precision, precision == "bf16")
                    distance = float((found - exact).norm() / exact.norm())
                    told, passed = f"{distance:.2g}", distance <= most
                except RuntimeError as problem:  # such as an arithmetic that it does not have
                    told, passed = first_line(problem), False
                made = row(check, told, f"at most {most:.2g}", passed)
                yield {**made, "step": step, "precision": precision}


def _trained(precision, device):
    """Weights after a few steps with the curvature regularizer."""
    model, pixels, labels, _ = _there(NETWORKS[0], device, torch.float32)
    settings = units.with_regularizer(recipe("cifar10").pretrain, "gradient-norm")
    optimizer = torch.optim.SGD(model.train().parameters(), 0.01, momentum=0.9)

    def loss():
        given = {"batch_size": COUNT, "step": 0, "draws": None}
        return teacher.teacher_loss(settings, model, pixels, labels, **given)[0]

    units.optimizing(optimizer, 3 * [loss], precision, device)()
    return [weight.detach() for weight in model.parameters()]


def _recovered(precision, device, mode="auto"):
    model = _there(NETWORKS[0], device, torch.float32)[0]
    changes = {"iterations": ITERATIONS, "precision": precision, "graphs": mode}
    settings = dataclasses.replace(recipe("cifar10").recover, **changes)
    pack = sre2l.problems_of(CLASSES, COUNT // CLASSES, CLASSES)
    return sre2l.recover_pack(settings, model, pack, 0, device)


def _distilled(device):
    pixels, labels, _ = _data()
    classes = tuple(str(label) for label in range(CLASSES))
    return images.Packed((255 * pixels).round().to(torch.uint8), labels, classes).to(device)


def _labelled(precision, device, mode="auto"):
    model = _there(NETWORKS[0], device, torch.float32)[0]
    labelling = soft_labels.LabelRecipe(batch_size=COUNT // 2, precision=precision, graphs=mode)
    step, held = soft_labels.labelling_step(model, labelling, device), _distilled(device)
    epochs = [soft_labels.make_epoch(model, held, labelling, epoch, step) for epoch in range(ITERATIONS)]
    return [torch.from_numpy(numpy.stack([rows["logits"] for rows in epochs]))]


def _taught(precision, device, mode="auto"):
    model = _there(NETWORKS[0], device, torch.float32)[0]
    changes = {"precision": precision, "graphs": mode}
    settings = dataclasses.replace(recipe("cifar10").train, model=NETWORKS[0], **changes)
    labelling, held = soft_labels.LabelRecipe(batch_size=COUNT // 2, precision="fp32"), _distilled(device)
    optimizer = student.optimizer_of(model, settings)
    step = student.training_step(settings, model, optimizer, device)
    for epoch in range(ITERATIONS):
        rows = soft_labels.draw_epoch(labelling, COUNT, SIZE, CLASSES, epoch)
        rows["logits"] = _data()[2].numpy()
        given = {"rows": rows, "recipe": labelling, "distilled": held, "device": device}
        student.epoch_of(settings, model, step, **given, seed_key=(0, epoch))
    return [weight.detach() for weight in model.parameters()]


STAGES = {"teacher": _trained, "recovery": _recovered, "labels": _labelled, "student": _taught}


def twice(device):
    """A stage's steps, done again, give the same bits."""
    for stage, work in STAGES.items():
        for precision in precisions_of(device):
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
            with_graphs, without = (_flat(STAGES[stage]("fp32", device, mode)) for mode in ("auto", "off"))
        distance = float((with_graphs - without).norm() / without.norm())
        refused = told.getvalue().strip()
        found = refused or f"{distance:.2g} from single operations"
        yield row(check, found, "at most 0.01", not refused and distance <= 0.01)


def estimated_memory(device):
    """Of a recovery's iteration, against what it is taken to need when images are packed."""
    for name in NETWORKS:
        model = _there(name, device, torch.float32)[0]
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
    model = _there("resnet18", device, torch.float32)[0]
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


CHECKS = (against_float64, twice, captured, estimated_memory, halving, workers, attacked)

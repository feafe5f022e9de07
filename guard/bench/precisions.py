"""Which precision and layout is fastest here: what `--precision auto` rests on."""

import dataclasses

from guard.bench import measure, units
from guard.recipes import recipe

WAYS = {
    "fp32": {"precision": "fp32", "channels_last": False},
    "fp32, channels-last": {"precision": "fp32", "channels_last": True},
    "bf16": {"precision": "bf16", "channels_last": False},
    "bf16, channels-last": {"precision": "bf16", "channels_last": True},
}
STEPS = ("plain", "gradient-norm", "adversarial n")
# (data set, network, size, images per step)
PAPER = (("cifar10", "resnet18", 32, 128), ("imagenette", "resnet18", 224, 32))
SMALL = (("digits", "convnet-32", 16, 64), ("cifar10", "convnet", 32, 128), ("cifar10", "resnet18", 32, 64))
LABELLED = 50  # images of a student's epoch, one mini-batch


def run(conditions):
    """Yields a row per case and step: seconds (median) in each of WAYS, and how many times as fast bf16 with
    channels-last is as fp32.
    """
    device = conditions.device
    for dataset, model, size, batch in PAPER if conditions.scale == "paper" else SMALL:
        for step in (*STEPS, "recovery", "labels", "student"):
            made = {name: _step(step, dataset, model, size, batch, way, device) for name, way in WAYS.items()}
            found = measure.alternating(made, conditions.repeats, device)
            seconds = {name: row["seconds"] for name, row in found.items()}
            times = seconds["fp32"] / seconds["bf16, channels-last"]
            case = f"{model} at {size}, {LABELLED if step in ('labels', 'student') else batch} images"
            yield {"case": case, "step": step, **seconds, "times as fast": times}


def _step(step, dataset, model, size, batch, way, device):
    """One step of a stage, a function without arguments."""
    chosen, stem = recipe(dataset), "cifar" if size <= 64 else "standard"
    if step in STEPS:
        changes = {"model": model, "image_size": size, "stem": stem, "batch_size": batch, **way}
        settings = dataclasses.replace(chosen.pretrain, **changes)
        return units.teacher_step(units.with_regularizer(settings, step), dataset, 10, device)
    network = units.network(dataset, model, size, stem, 10, device, way["channels_last"]).eval()
    if step == "recovery":
        changes = {"iterations": 1, "images_per_class": batch // 10, "pack_images": batch, **way}
        settings = dataclasses.replace(chosen.recover, **changes)
        return units.recover_iterations(settings, network, 10, device)
    held = units.random_images(LABELLED, 10, size, device)
    labelling = dataclasses.replace(chosen.relabel, batch_size=LABELLED, **way)
    if step == "labels":
        return units.label_epoch(labelling, network, held)
    settings = dataclasses.replace(chosen.train, model=model, **way)
    return units.student_epoch(settings, labelling, network, stem, dataset, held, device)

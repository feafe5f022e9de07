"""Which precision and layout is fastest here: what `--precision auto` rests on."""

import dataclasses

from guard.bench import measure, units
from guard.recipes import recipe


def ways(precisions):
    """name -> settings of a stage: each precision without and with channels-last."""
    return {
        f"{precision}{', channels-last' * channels_last}": {
            "precision": precision,
            "channels_last": channels_last,
        }
        for precision in precisions
        for channels_last in (False, True)
    }


WAYS = ways(("fp32", "bf16"))
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
            given = step, dataset, model, size, batch
            count = units.iterations(device) if step == "recovery" else 1
            made = {name: step_of(*given, way, device, count) for name, way in WAYS.items()}
            found = measure.alternating(made, conditions.repeats, device)
            seconds = {name: row["seconds"] / count for name, row in found.items()}
            times = seconds["fp32"] / seconds["bf16, channels-last"]
            case = f"{model} at {size}, {images_of(step, batch)} images"
            yield {"case": case, "step": step, **seconds, "times as fast": times}


def images_of(step, batch):
    """On how many images a step is timed: a recovery's are the same number of each of ten classes."""
    if step in ("labels", "student"):
        return LABELLED
    return batch // 10 * 10 if step == "recovery" else batch


def step_of(step, dataset, model, size, batch, way, device, iterations=1):
    """One step of a stage, a function without arguments, on the images that `images_of` counts; of recovery,
    so many iterations.

    way: settings of the stage, of which each takes those that it knows.
    """
    chosen, stem = recipe(dataset), "cifar" if size <= 64 else "standard"
    if step in STEPS:
        changes = {"model": model, "image_size": size, "stem": stem, "batch_size": batch, **way}
        settings = _changed(chosen.pretrain, **changes)
        return units.teacher_steps(units.with_regularizer(settings, step), dataset, 10, device)
    of_network = {name: way[name] for name in ("channels_last", "compile") if name in way}
    network = units.network(dataset, model, size, stem, 10, device, **of_network).eval()
    if step == "recovery":
        changes = {"iterations": iterations, "images_per_class": batch // 10, "pack_images": batch, **way}
        settings = _changed(chosen.recover, **changes)
        return units.recover_iterations(settings, network, 10, device)
    held = units.random_images(LABELLED, 10, size, device)
    labelling = _changed(chosen.relabel, batch_size=LABELLED, **way)
    if step == "labels":
        return units.label_epoch(labelling, network, held)
    settings = _changed(chosen.train, model=model, **way)
    return units.student_epoch(settings, labelling, network, stem, dataset, held, device)


def _changed(settings, **changes):
    known = {row.name for row in dataclasses.fields(settings)}
    return dataclasses.replace(settings, **{name: value for name, value in changes.items() if name in known})

"""What a teacher's step and a recovery's iteration cost: seconds and peak memory, all in one run, each
in its turn.
"""

import dataclasses
from statistics import median, stdev

from guard.bench import measure, units
from guard.recipes import recipe

STEPS = (
    "plain",
    "gradient-norm",
    "gradient-squared",
    "loss",
    "gradient regularization",
    "adversarial t",
    "adversarial f",
    "adversarial n",
)
# (data set, network, size, images per step)
PAPER = (("cifar10", "resnet18", 32, 128), ("imagenette", "resnet18", 224, 32))
SMALL = (("cifar10", "convnet", 32, 64), ("cifar10", "resnet18", 32, 32))


def run(conditions):
    """Yields a row per case and step: seconds (median), their standard deviation, peak bytes of its
    tensors, and the cost in plain steps of the teacher.
    """
    device, repeats = conditions.device, conditions.repeats
    for dataset, model, size, batch in PAPER if conditions.scale == "paper" else SMALL:
        chosen = recipe(dataset)
        settings = dataclasses.replace(
            chosen.pretrain,
            model=model,
            image_size=size,
            stem="cifar" if size <= 64 else "standard",
            batch_size=batch,
            **conditions.of_a_stage,
        )
        steps = {
            f"teacher, {name}": units.teacher_steps(
                units.with_regularizer(settings, name), dataset, 10, device
            )
            for name in STEPS
        }
        recovery = dataclasses.replace(
            chosen.recover,
            iterations=units.iterations(device),
            images_per_class=batch // 10,
            pack_images=batch,
            **conditions.of_a_stage,
        )
        network = units.network(
            dataset, model, size, settings.stem, 10, device, conditions.channels_last
        ).eval()
        steps["recover, iteration"] = units.recover_iterations(recovery, network, 10, device)
        found = measure.alternating(steps, repeats, device, memory=True)
        plain = found["teacher, plain"]["seconds"]
        for name, row in found.items():
            of_recovery = name.startswith("recover")
            images = batch // 10 * 10 if of_recovery else batch
            times = recovery.iterations if of_recovery else 1
            yield {
                "case": f"{model} at {size}, {images} images",
                "step": name,
                "seconds": median(row["all seconds"]) / times,
                "seconds_std": stdev(row["all seconds"]) / times if repeats > 1 else 0.0,
                "peak bytes": row["peak bytes"],
                "plain steps": row["seconds"] / times / plain,
            }

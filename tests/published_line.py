"""What the published command asks of one GPU, counted: how long it takes there at least.

    python -m tests.published_line

writes results/published_line.json. Operations are those of matrix products and convolutions
(guard.bench.measure.operations), on a CPU at a small mini-batch and multiplied; starts are operations that
do something, on the stand-in for a GPU (tests/device_steps.py). Imagenette, ResNet-18 at 224 pixels, 50
epochs with GUARD, 10 images per class, 2,000 iterations, 300 epochs, the five attacks.
"""

import functools
import json
from pathlib import Path

import torch

from guard.attacks import PROTOCOLS
from guard.bench import estimate, measure, precisions
from guard.bench.doctor import IMAGENETTE
from guard.networks import models
from guard.recipes import recipe, relabel_batch_size
from tests import device_steps

TABLE = Path(__file__).resolve().parent.parent / "results" / "published_line.json"
CPU = torch.device("cpu")
CHOSEN = recipe("imagenette")
IMAGES = 10 * IMAGENETTE.classes  # distilled
FEW = 10  # images of a counted step
START = 5e-6  # seconds in which a host starts an operation
# Operations in a second, assumed of an H200: 35 % of a product rate of 700 TFLOP/s in bf16; 70 % of 50
# TFLOP/s in fp32 without tensor cores, in which attacks are.
RATES = {"bf16": 0.35 * 700e12, "fp32": 0.7 * 50e12}


def resnet():
    """The network of the command, at the size of device_steps: a start does not depend on sizes."""
    torch.manual_seed(0)
    shape = {"classes": device_steps.CLASSES, "image_size": device_steps.SIZE, "stem": "standard"}
    return models.build("resnet18", **shape, mean=CHOSEN.mean, std=CHOSEN.std).eval()


@functools.cache
def operations(step):
    """For each image, in a step of guard.bench.precisions."""
    case = "imagenette", "resnet18", 224, FEW
    work = precisions.step_of(step, *case, {"precision": "fp32", "channels_last": False}, CPU)
    images = precisions.LABELLED if step in ("labels", "student") else FEW
    return measure.operations(work) / images


def starts(kind):
    counts = device_steps.step_of(kind, resnet)
    return counts.ops - counts.views


def line():
    """stage -> steps, images of a step, operations and starts of a step; captured: one start for each."""
    train, relabel = CHOSEN.pretrain, CHOSEN.relabel
    batches = -(-IMAGENETTE.train // train.batch_size)
    labelled = relabel_batch_size(relabel.batch_size, IMAGES // IMAGENETTE.classes)
    epochs = relabel.epochs * -(-IMAGES // labelled)
    forward, both = estimate.passes(PROTOCOLS["paper"])
    attacked = 2 * estimate.STANDING * IMAGENETTE.val
    iterations = CHOSEN.recover.iterations
    kinds = {
        "teacher": (
            "gradient-norm",
            "teacher, gradient-norm",
            train.epochs * batches,
            train.batch_size,
            False,
        ),
        "recovery": ("recovery", "recover", iterations, IMAGES, True),
        "labels": ("labels", "relabel", epochs, labelled, True),
        "student": ("student", "student", epochs, labelled, True),
    }
    found = {}
    for stage, (step, kind, steps, images, captured) in kinds.items():
        found[stage] = {
            "steps": steps,
            "images": images,
            "operations": operations(step) * images,
            "starts": 1 if captured else starts(kind),
            "starts without graphs": starts(kind),
        }
    # A pass forward and back to the pixels is two thirds of a student's step, one forward a third.
    per_pass = operations("student") / 3
    whole = attacked * per_pass * (forward + 2 * both)
    batch = 500
    found["attacks"] = {
        "steps": round(attacked * (forward + both) / batch),
        "images": batch,
        "operations": whole / (attacked * (forward + both) / batch),
        "starts": starts("attack pgd100"),
        "starts without graphs": starts("attack pgd100"),
    }
    for stage, row in found.items():
        row["precision"] = "fp32" if stage == "attacks" else "bf16"
        row["seconds of operations"] = row["steps"] * row["operations"] / RATES[row["precision"]]
        row["seconds of starts"] = row["steps"] * row["starts"] * START
    return found


def main():
    found = line()
    seconds = sum(max(row["seconds of operations"], row["seconds of starts"]) for row in found.values())
    said = {"rates": RATES, "seconds of a start": START, "stages": found, "minutes": seconds / 60}
    TABLE.write_text(json.dumps(said, indent=2) + "\n")
    for stage, row in found.items():
        print(
            stage, {name: value if isinstance(value, str) else f"{value:.4g}" for name, value in row.items()}
        )
    print(f"{seconds / 60:.1f} minutes, if the larger of operations and starts counts")


if __name__ == "__main__":
    main()

"""What the stages do on a device, at toy size: the project's own code, for tests on the stand-in for a GPU.

    python -m tests.device_steps

writes results/ops.json: what a step of each stage asks of the device, as tests/math/test_one_device.py
bounds it.
"""

import dataclasses
import functools
import json
from pathlib import Path
from unittest.mock import patch

import torch

from guard.attacks import robustness
from guard.data import loading
from guard.data.images import Mapped, Packed
from guard.distilled import soft_labels
from guard.distilled.soft_labels import LabelRecipe, batches_of
from guard.networks.models import ConvNet, PixelModel, frozen_eval
from guard.registry import ATTACKS, function_of
from guard.run import seeds
from guard.run.progress import Progress
from guard.settings import Pretrain, Recover, Train
from pretrain import teacher
from recover import sre2l
from recover.recovery import Request
from tests.instrument import CPU, GPU, Counts, Instrument, on_device, standing_in
from train import student

TABLE = Path(__file__).resolve().parent.parent / "results" / "ops.json"
CLASSES, WIDTH, SIZE, BATCH = 4, 8, 16, 4  # classes, channels, side in pixels, images of a mini-batch
STEPS = 3  # a step's counts are those of one step more than so many
HARMLESS = 1e-7  # epsilon within which no attack breaks an image, so that each does all of its steps

# ---- what they work on ---------------------------------------------------------------------------


def make_model(seed=0):
    """A PixelModel on the CPU in eval mode: a ConvNet whose running statistics are not trivial."""
    torch.manual_seed(seed)
    model = PixelModel(ConvNet(CLASSES, SIZE, WIDTH), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), SIZE)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, 3, SIZE, SIZE))
    return model.eval()


def make_images(count, device):
    """Packed on `device`, without a counted copy: noise whose brightness tells the classes apart."""
    draws, labels = torch.Generator().manual_seed(1), torch.arange(count) % CLASSES
    pixels = torch.randint(100, (count, 3, SIZE, SIZE), generator=draws) + 40 * labels.view(-1, 1, 1, 1)
    pixels = pixels.to(torch.uint8)
    pixels = on_device(pixels) if device == GPU and standing_in() else pixels.to(device)
    return Packed(pixels, labels, tuple(f"class {label}" for label in range(CLASSES)))


def network_alone(model, device):
    """A forward pass and a backward pass to the images, of the network alone."""
    x = torch.randn(BATCH, 3, SIZE, SIZE).to(device).requires_grad_()
    with frozen_eval(model):
        torch.autograd.grad(model.network(x).sum(), x)


# ---- stages --------------------------------------------------------------------------------------


def recover_images(model, device, *, iterations, **changes):
    """Recovers BATCH images; (pixels, losses)."""
    settings = Recover(iterations=iterations, roll=4, precision="fp32")
    settings = dataclasses.replace(settings, **changes)
    pack = sre2l.problems_of(CLASSES // 2, 2, classes_per_problem=2)
    with Progress("recover", iterations, "iteration") as progress:
        return sre2l.recover_pack(settings, model, pack, 0, device, progress)


def train_teacher(model, device, *, steps, **changes):
    """An epoch of `steps` steps; a row of its history."""
    settings = Pretrain(image_size=SIZE, batch_size=BATCH, augmentation="pad-crop", precision="fp32")
    settings = dataclasses.replace(settings, **changes)
    images = make_images(BATCH * steps, device)
    data = teacher.Data("toy", images, images, 0, device)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    with Progress("teacher", steps, "step") as progress:
        return teacher._epoch(settings, model, optimizer, data, 0, 0, progress)


def label_images(model, device, *, steps, **changes):
    """An epoch of labels in `steps` mini-batches; its rows."""
    recipe = dataclasses.replace(LabelRecipe(batch_size=BATCH, precision="fp32"), **changes)
    return soft_labels.make_epoch(model, make_images(BATCH * steps, device), recipe, 0)


def train_student(model, device, *, steps, labels=(), **changes):
    """An epoch of `steps` steps; the mean loss. labels: changes of the LabelRecipe."""
    settings = dataclasses.replace(Train(precision="fp32"), **changes)
    recipe = dataclasses.replace(LabelRecipe(batch_size=BATCH, precision="fp32"), **dict(labels))
    images = make_images(BATCH * steps, device)
    rows = soft_labels.draw_epoch(recipe, len(images), SIZE, CLASSES, 0)
    draws = torch.Generator().manual_seed(2)
    rows["logits"] = torch.randn(len(rows), CLASSES, generator=draws).numpy()
    if recipe.input_gradients != "none":
        for batch in batches_of(rows, BATCH):
            gradient = torch.randn(len(batch), 3, SIZE, SIZE, generator=draws)
            for name, values in soft_labels._fields_of(gradient, recipe.input_gradients).items():
                batch[name] = values.numpy()
    averaged = None
    if settings.weight_average:
        averaged = student.Averaged(model, settings.weight_average)
    optimizer = student.optimizer_of(model, settings)
    return student.epoch_of(
        settings,
        model,
        student.training_step(settings, model, optimizer, device, averaged),
        rows=rows,
        recipe=recipe,
        distilled=images,
        seed_key=(0, "student", 0),
        device=device,
    )


def attack_images(name, model, device, *, steps, epsilon=HARMLESS):
    """An attack of one part on BATCH images that the model gets right; (adversarial, broken)."""
    row = ATTACKS[name]
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3)).to(device)
    with torch.no_grad():
        labels = model(images).argmax(1)
    long = {"queries": steps} if "queries" in row.settings else {"steps": steps}
    targets = {"targets": 1} if "targets" in row.settings else {}
    constant = {"c": 100.0} if "c" in row.settings else {}  # or its loss grows, and it stops early
    draws = functools.partial(seeds.generator, name)

    def draw(position, part=""):
        return draws(position, part)

    given = {"epsilon": epsilon, "draws": draw, "batch_size": BATCH}
    with frozen_eval(model):
        return function_of(row.function)(
            model, images, labels, **row.settings | long | targets | constant | given
        )


def evaluate_model(model, device, *, names, epsilon, count=2 * BATCH):
    """robustness.evaluate's dict of `count` images, two mini-batches of an attack by default."""
    return robustness.evaluate(
        model,
        make_images(count, CPU).to(device),
        size=SIZE,
        names=names,
        epsilon=epsilon,
        attack_batch=BATCH // 2,
        seed=0,
        workers=0,
        device=device,
    )


def measure_curvature(model, device):
    """The means of the curvatures of BATCH images."""
    images = make_images(BATCH, device)
    return teacher.measure_curvature(model, teacher.Data("toy", images, images, 0, device), BATCH, 3.0)


def start_from_crops(model, device):
    """A recovery from rded's crops; the recover.recovery.Made of its only pack."""
    settings = Recover(
        start="rded",
        images_per_class=1,
        iterations=2,
        roll=4,
        pack_images=CLASSES,
        candidates=4,
        crops=2,
        precision="fp32",
    )
    training = make_images(6 * CLASSES, device)
    request = Request(settings, model, list(training.classes), 0, device, training)
    (part,) = sre2l.plan(request).parts
    with Progress("recover", 2, "iteration") as progress:
        return part.make(progress)


def watch_teacher(model, device, *, epsilon):
    """Accuracy (percent) of the teacher under PGD10, as after an epoch of a one-step adversarial teacher."""
    images = make_images(2 * BATCH, device)
    with patch.object(
        teacher.memory, "of_device", lambda device: 2**34
    ):  # a device that is none has no memory
        return teacher.Data("toy", images, images, 0, device).pgd10_accuracy(model, epsilon)


def make_images_of_many_sizes():
    """Mapped on the CPU: BATCH images of noise, of which each has another size."""
    sizes = torch.tensor([[20 + number, 30 - number] for number in range(BATCH)])
    draws = torch.Generator().manual_seed(4)
    pixels = torch.randint(256, (int(3 * sizes.prod(1).sum()),), generator=draws).to(torch.uint8)
    return Mapped(pixels, sizes, torch.arange(BATCH), ["a", "b", "c", "d"])


def see_many_sizes(model, device, augmentation="resized-crop"):
    """(pixels (BATCH, 3, SIZE, SIZE), labels) of a mini-batch of images of which each has another size."""
    del model
    mapped = make_images_of_many_sizes().to(device)
    epoch = loading.TrainingEpoch(
        mapped, augmentation=augmentation, batch_size=BATCH, size=SIZE, seed=0, epoch=0
    )
    ((seen, labels),) = loading.batches(epoch, 0, device)
    return seen, labels


# ---- table ---------------------------------------------------------------------------------------

CURVATURE = {"curvature": True}
TEACHERS = {
    "teacher": {},
    "teacher, resized crops": {"augmentation": "resized-crop"},
    "teacher, gradient-norm": CURVATURE,
    "teacher, gradient-squared": {**CURVATURE, "regularizer": "gradient-squared"},
    "teacher, loss": {**CURVATURE, "regularizer": "loss"},
    "teacher, gradient regularization": {"gradient_regularization": True},
    "teacher, adversarial t": {"adversarial": "t"},
    "teacher, adversarial f": {"adversarial": "f"},
    "teacher, adversarial n": {"adversarial": "n"},
    "teacher, clipped": {"clip_grad_norm": 1.0},
}
RECOVERIES = {"recover": {}, "recover, cda": {"cda": True}, "recover, no crop": {"crop": False}}
LABELS = {
    "relabel": {},
    "relabel, mixup": {"mix": "mixup"},
    "relabel, pad-crop": {"augmentation": "pad-crop"},
    "relabel, mode train": {"teacher_mode": "train"},
    "relabel, signs": {"input_gradients": "signs"},
    "relabel, values": {"input_gradients": "values"},
}
AGAINST_TEACHER = {"adversarial_share": 0.5, "views_against": "teacher"}
STUDENTS = {
    "student": {},
    "student, pad-crop": {"labels": {"augmentation": "pad-crop"}},
    "student, mixup": {"labels": {"mix": "mixup"}},
    "student, mse": {"loss": "mse"},
    "student, cross-entropy": {"loss": "cross-entropy"},
    "student, adversarial views": {"adversarial_share": 0.5},
    "student, views against the teacher": {**AGAINST_TEACHER, "labels": {"input_gradients": "signs"}},
    "student, gradients": {
        "loss": "kl+cross-entropy",
        "gradient_weight": 10.0,
        "labels": {"input_gradients": "values"},
    },
    "student, averaged": {"weight_average": 0.9},
    "student, sgd": {"optimizer": "sgd"},
    "student, dsa": {"dsa": True, "loss": "cross-entropy"},
}
# Those of one part whose number of steps is not another's alone.
ATTACK_NAMES = ("fgsm", "pgd100", "pgd100-l2", "mim", "cw", "square", "apgd-ce", "apgd-dlr", "fab")


def _step(work, name, make, more=1):
    """Counts of one step of `work`(make(), device, **{name: steps}) after STEPS: the mean of so many, up."""
    found = []
    for steps in (STEPS, STEPS + more):
        model = make()
        with Instrument() as instrument:
            model.to(GPU)
            with instrument.counting() as counts:
                work(model, GPU, **{name: steps})
            found.append(counts)
    beyond = dataclasses.asdict(found[1].beyond(found[0]))
    return Counts(**{name: -(-count // more) for name, count in beyond.items()})


def step_of(kind, make=make_model):
    """Counts of one step of a kind: a key of TEACHERS, RECOVERIES, LABELS or STUDENTS, or 'attack NAME'.

    make: a function that gives the network.
    """
    if kind in RECOVERIES:
        return _step(functools.partial(recover_images, **RECOVERIES[kind]), "iterations", make, sre2l.AHEAD)
    if kind.startswith("attack "):
        return _step(functools.partial(attack_images, kind.removeprefix("attack ")), "steps", make)
    for kinds, work in ((TEACHERS, train_teacher), (LABELS, label_images), (STUDENTS, train_student)):
        if kind in kinds:
            return _step(functools.partial(work, **kinds[kind]), "steps", make)
    raise KeyError(kind)


KINDS = [*TEACHERS, *RECOVERIES, *LABELS, *STUDENTS, *(f"attack {name}" for name in ATTACK_NAMES)]


def network_counts():
    """Counts of the network's own forward pass, and backward pass to the images."""
    model = make_model()
    with Instrument() as instrument:
        model.to(GPU)
        with instrument.counting() as counts:
            network_alone(model, GPU)
    return dataclasses.replace(counts, copies=0, copied=0)  # of the images


def table():
    """kind of step -> its counts as a dict; 'network' are those of its own forward and backward."""
    return {
        kind: dataclasses.asdict(network_counts() if kind == "network" else step_of(kind))
        for kind in ["network", *KINDS]
    }


def main():
    lines = [f'  "{kind}": {json.dumps(counts)}' for kind, counts in table().items()]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""Each stage's step on a device against float64 on the CPU, by the stages' own functions, term by term.

The work is of sizes that float64 on a CPU can follow.
"""

import copy
import functools
import itertools

import torch
import torch.nn.functional as F

from guard.bench import units
from guard.distilled import soft_labels
from guard.errors import first_line
from guard.method import regularizers
from guard.networks import models
from guard.networks.layout import arrange
from guard.recipes import recipe
from guard.run.devices import computing
from pretrain import teacher
from recover import sre2l
from train import student

CPU = torch.device("cpu")
CLASSES, SIZE, COUNT, STEM = 10, 32, 20, "cifar"
NETWORKS = ("convnet", "resnet18")
# ||device - float64|| / ||float64|| of a gradient or of logits, at most. ResNet-18 is the worst: on a CPU its
# gradients are up to 0.004 away in fp32, and 0.26 in bf16. What is wrong is about 1 away.
TOLERANCES = {"fp32": 0.01, "tf32": 0.1, "bf16": 0.4}
COMPILED = ("plain", "labels", "student")  # torch.compile cannot differentiate twice, nor is it for recovery


def row(check, found, wanted, passed):
    return {"check": check, "found": found, "wanted": wanted, "passed": passed}


def precisions_of(device):
    """tf32 is a matter of GPUs."""
    return [name for name in TOLERANCES if name != "tf32" or device.type == "cuda"]


def arithmetics_of(step, device):
    """[(precision, {'channels_last', 'compile'})] that a step is checked in, compiled on GPUs alone."""
    kinds = [(name, {"channels_last": name == "bf16", "compile": False}) for name in precisions_of(device)]
    if device.type == "cuda" and step in COMPILED:
        kinds.append(("bf16", {"channels_last": True, "compile": True}))
    return kinds


# ---- what is computed ----------------------------------------------------------------------------


@functools.cache
def made(name):
    """A network on the CPU in float64 that has learnt a little: at the very start the curvature is next to
    nothing, and its gradient is rounding for the most part.
    """
    network = units.network("cifar10", name, SIZE, STEM, CLASSES, CPU).train()
    pixels, labels, _ = data()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(network(pixels.float()), labels).backward()
        optimizer.step()
    return network.double().eval()


@functools.cache
def data():
    """(pixels, labels, logits): of images that differ by class, and of a teacher."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) % CLASSES
    pixels = torch.rand(COUNT, 3, SIZE, SIZE, generator=draws, dtype=torch.float64)
    pixels = (pixels + labels.view(-1, 1, 1, 1) / CLASSES) / 2
    return pixels, labels, torch.randn(COUNT, CLASSES, generator=draws, dtype=torch.float64)


def there(name, device, dtype, **layout):
    """(network, pixels, labels, logits) on the device, in the type. layout: as of guard.networks.layout."""
    model = copy.deepcopy(made(name)).to(device=device, dtype=dtype)
    arrange(model.network, **{"channels_last": False, **layout})
    pixels, labels, logits = data()
    return model, pixels.to(device, dtype), labels.to(device), logits.to(device, dtype)


def flat(gradients):
    return torch.cat([each.flatten() for each in gradients]).double().cpu()


def teacher_gradient(name, device, dtype, precision, **layout):
    """Of all weights, of the loss of a plain teacher's step."""
    model, pixels, labels, _ = there(name, device, dtype, **layout)
    with computing(precision, device):
        given = {"batch_size": COUNT, "step": 0, "draws": None}
        loss, _ = teacher.teacher_loss(recipe("cifar10").pretrain, model.train(), pixels, labels, **given)
        return flat(torch.autograd.grad(loss, list(model.parameters())))


def penalty_gradient(name, device, dtype, precision, **layout):
    """Of all weights, of the curvature regularizer alone, which is a small part of the loss."""
    model, pixels, labels, _ = there(name, device, dtype, **layout)
    settings = units.with_regularizer(recipe("cifar10").pretrain, "gradient-norm")
    with computing(precision, device):
        x = model.train().normalize(pixels)
        penalty = regularizers.penalty(settings, model.network, x, labels, COUNT)
        weights = list(model.parameters())
        return flat(torch.autograd.grad(penalty, weights, materialize_grads=True))


def recovery_gradient(term, name, device, dtype, precision, **layout):
    """Of the images, of one term of an iteration of the recovery: 0, its cross-entropy, or 1, its batch-norm
    loss, which is much the larger.
    """
    model, pixels, _, _ = there(name, device, dtype, **layout)
    settings = recipe("cifar10").recover
    pack = sre2l.problems_of(CLASSES, COUNT // CLASSES, CLASSES)
    objective = sre2l.Objective(settings, model.network, pack, 0, SIZE, device, dtype)
    x = model.normalize(pixels).detach().requires_grad_()
    with models.frozen_eval(model), objective.statistics, computing(precision, device):
        losses = objective(x, *objective.view(0))
        return flat(torch.autograd.grad(losses[term].sum(), x))


def logits(name, device, dtype, precision, **layout):
    """Of the teacher, as they are stored."""
    model, pixels, _, _ = there(name, device, dtype, **layout)
    labelling = soft_labels.LabelRecipe(precision=precision, graphs="off")
    (found,) = soft_labels.labelling_step(model.eval(), labelling, device)(pixels)
    return flat([found])


def student_gradient(name, device, dtype, precision, **layout):
    """Of all weights, of a student's step."""
    model, pixels, labels, teacher_logits = there(name, device, dtype, **layout)
    targets = torch.nn.functional.one_hot(labels, CLASSES).to(dtype)
    settings = recipe("cifar10").train
    with computing(precision, device):
        loss = student.student_loss(settings, model.train(), pixels, teacher_logits, targets)
        return flat(torch.autograd.grad(loss, list(model.parameters())))


# Steps, and what is compared of each: its terms apart, or one that is wrong hides behind a larger one
STEPS = {
    "plain": {"loss": teacher_gradient},
    "gradient-norm": {"loss": teacher_gradient, "penalty": penalty_gradient},
    "recovery": {
        "cross-entropy": functools.partial(recovery_gradient, 0),
        "batch-norm loss": functools.partial(recovery_gradient, 1),
    },
    "labels": {"logits": logits},
    "student": {"loss": student_gradient},
}


def against_float64(device):
    """Each stage's step against float64 on the CPU.

    In bf16 and tf32 a step that is too far from it is no fault of the device: it is not chosen there.
    """
    for step, terms in STEPS.items():
        for (term, work), name in itertools.product(terms.items(), NETWORKS):
            exact = work(name, CPU, torch.float64, "fp32")
            for precision, layout in arithmetics_of(step, device):
                way = precision + ", compiled" * layout["compile"]
                check, most = f"{step}, {term}, {name}, {way}, against float64", TOLERANCES[precision]
                try:
                    found = work(name, device, torch.float32, precision, **layout)
                    distance = float((found - exact).norm() / exact.norm())
                    told, passed = f"{distance:.2g}", distance <= most
                except RuntimeError as problem:  # such as an arithmetic that it does not have
                    told, passed = first_line(problem), False
                told = row(check, told, f"at most {most:.2g}", passed)
                yield {**told, "step": step, "precision": precision, "compile": layout["compile"]}

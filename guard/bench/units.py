"""The pieces that the stages' work consists of, at any size: functions without arguments, to be timed."""

import dataclasses
import functools
import time

import torch
import torch.nn.functional as F

from guard.bench.measure import alternating, synchronize
from guard.data import images
from guard.distilled import soft_labels
from guard.networks import models
from guard.networks.checkpoint import Checkpoint
from guard.networks.layout import arrange
from guard.recipes import recipe
from guard.run.devices import computing
from guard.settings import as_dict
from pretrain import teacher
from recover import dc, sre2l
from recover.recovery import Request
from train import student


def network(dataset, model, size, stem, classes, device, channels_last=False, seed=0, compile=False):
    """A fresh PixelModel with the normalization of a data set."""
    if seed is not None:
        torch.manual_seed(seed)
    chosen = recipe(dataset)
    made = models.build(model, classes=classes, image_size=size, stem=stem, mean=chosen.mean, std=chosen.std)
    arrange(made.network, channels_last=channels_last, compile=compile)
    return made.to(device)


def random_images(count, classes, size, device):
    """guard.data.images.Packed of noise, classes in turn."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), generator=draws, dtype=torch.uint8)
    return images.Packed(
        pixels, torch.arange(count) % classes, tuple(str(label) for label in range(classes))
    ).to(device)


def optimizing(optimizer, losses, precision, device):
    """A step of the optimizer with each of `losses`, functions without arguments."""

    def steps():
        for loss in losses:
            optimizer.zero_grad()
            with computing(precision, device):
                loss().backward()
            optimizer.step()

    return steps


def teacher_steps(settings, dataset, classes, device):
    """Training steps of the teacher by `settings` (settings.Pretrain), `settings.curvature_every` of them."""
    layout = {"channels_last": settings.channels_last, "compile": settings.compile}
    shape = settings.model, settings.image_size, settings.stem
    model = network(dataset, *shape, classes, device, **layout).train()
    held = random_images(settings.batch_size, classes, settings.image_size, device)
    pixels, labels = held.pixels.float() / 255, held.labels.to(device)
    draws = torch.Generator().manual_seed(0)

    def loss(step):
        return teacher.teacher_loss(
            settings, model, pixels, labels, batch_size=len(labels), step=step, draws=draws
        )[0]

    losses = [functools.partial(loss, step) for step in range(settings.curvature_every)]
    return optimizing(torch.optim.SGD(model.parameters(), 1e-6), losses, settings.precision, device)


def iterations(device, few=1):
    """Of a timed recovery: `few` on a CPU; on a GPU so many that setting up and capturing the first of them,
    which each call of it does anew, is next to nothing.
    """
    return 200 if device.type == "cuda" else few


def recover_iterations(settings, model, classes, device):
    """`settings.iterations` iterations on every image of `settings` (settings.Recover), pack after pack,
    with a teacher `model`.
    """
    packs = sre2l.packs_of(
        sre2l.problems_of(classes, settings.images_per_class, settings.classes_per_problem),
        settings.pack_images,
    )

    def run():
        for pack in packs:
            sre2l.recover_pack(settings, model, pack, 0, device)

    return run


def network_of_condensation(settings, teacher_settings, dataset, classes, device):
    """The steps of the images by `settings` (settings.Recover, method dc) on one network.

    teacher_settings: settings.Pretrain.
    """
    shape = {name: getattr(teacher_settings, name) for name in ("model", "image_size", "stem")}
    chosen, names, seed = recipe(dataset), [str(label) for label in range(classes)], 0
    checkpoint = Checkpoint(
        role="teacher",
        dataset=dataset,
        **shape,
        mean=chosen.mean,
        std=chosen.std,
        classes=names,
        seed=seed,
        settings=as_dict(teacher_settings),
        state={},
    )
    model = checkpoint.fresh().to(device).eval()
    training_images = random_images(classes * settings.real_batch, classes, model.image_size, device)
    request = Request(settings, model, names, seed, device, training_images, checkpoint)
    held = dc.condensation(request)
    x = model.normalize(random_images(len(held.labels), classes, model.image_size, device).pixels / 255)
    optimizer = torch.optim.SGD([x.requires_grad_()], settings.image_rate)

    return lambda: dc.on_a_fresh_network(held, 0, x, optimizer)


def input_gradient(model, pixels, labels):
    """A pass forward and back to the pixels, which an attack consists of."""
    pixels = pixels.detach().requires_grad_()
    return lambda: torch.autograd.grad(F.cross_entropy(model(pixels), labels), pixels)


def label_epoch(settings, model, held):
    """An epoch of labels by `settings` (settings.Relabel) for the images `held`."""
    labelling = soft_labels.label_recipe(settings, held, 0)
    step = soft_labels.labelling_step(model, labelling, held.device)
    return functools.partial(soft_labels.make_epoch, model, held, labelling, 0, step)


def student_epoch(settings, label_settings, teacher_model, stem, dataset, held, device):
    """An epoch of the student by `settings` (settings.Train) on labels that are there already."""
    labelling = soft_labels.label_recipe(label_settings, held, 0)
    rows = soft_labels.make_epoch(teacher_model, held, labelling, 0)
    model = network(
        dataset,
        settings.model,
        teacher_model.image_size,
        stem,
        len(held.classes),
        device,
        settings.channels_last,
        compile=settings.compile,
    )
    return functools.partial(
        student.epoch_of,
        settings,
        model,
        student.training_step(settings, model, student.optimizer_of(model, settings), device),
        rows=rows,
        recipe=labelling,
        distilled=held,
        seed_key=(0, "student", 0),
        device=device,
    )


def seconds(steps, repeats, device):
    """{name: median seconds} of functions without arguments, alternating."""
    return {name: row["seconds"] for name, row in alternating(steps, repeats, device).items()}


def about(steps, device, long=2.0):
    """{name: seconds} of functions without arguments, good enough for an estimate: on a CPU one whose first
    call, in which it may be set up, takes over `long` seconds is called but once more, the others as by
    `seconds`. On a GPU it is the setting up that takes long.
    """
    if device.type == "cuda":
        return seconds(steps, 2, device)
    slow = {name for name, step in steps.items() if _once(step, device) > long}
    found = seconds({name: step for name, step in steps.items() if name not in slow}, 2, device)
    return found | {name: _once(steps[name], device) for name in slow}


def _once(step, device):
    synchronize(device)
    started = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - started


def with_regularizer(settings, name):
    """settings.Pretrain with a regularizer, an adversarial way or neither: 'plain', a form's
    name, 'gradient regularization', or 'adversarial t', 'f' or 'n' (within 8/255).
    """
    if name == "plain":
        return settings
    if name == "gradient regularization":
        return dataclasses.replace(settings, gradient_regularization=True)
    if name.startswith("adversarial "):
        return dataclasses.replace(settings, adversarial=name.split()[1], epsilon=8 / 255)
    return dataclasses.replace(settings, curvature=True, regularizer=name)

"""Stage train: a student on distilled images and their labels, which train/inputs.py reads."""

import contextlib
import copy
import functools
import math
from dataclasses import asdict, replace

import torch
from torch import nn

from guard import recipes
from guard.attacks import robustness
from guard.data import images, siamese
from guard.data.augment import as_float
from guard.distilled.soft_labels import batches_of, gradient_of, look_beside, targets_of
from guard.errors import UserError
from guard.method import schedules
from guard.method.losses import gradient_distance
from guard.method.views import adversarial_views, views_against_teacher
from guard.networks import checkpoint, layout, models
from guard.networks.checkpoint import Checkpoint
from guard.networks.training import Training
from guard.networks.twice import twice_differentiable
from guard.registry import STUDENT_LOSSES, function_of
from guard.run import devices, graphs, precision, processes, seeds
from guard.run.progress import Progress
from guard.settings import as_dict

CHECKED_IMAGES = 64  # validation images whose logits have to be finite at the end
LINES = 5  # of progress where the output is no terminal; the attacks that follow print lines of their own

# ---- setup ---------------------------------------------------------------------------------------


def train(settings, inputs, work, *, seed, workers):
    """Trains a student by `settings` (settings.Train) and writes its checkpoint and record; returns its
    path.

    inputs: of train/inputs.py. work: the Stage, entered. A finished student with the same settings is left
    as it is, an interrupted one goes on.
    """
    training = Training(work.output / "checkpoint.pt", "student")
    earlier = work.earlier_settings(training)
    settings = precision.settled(settings, earlier, work.device)
    labels = inputs.labels
    labels.recipe = precision.settled(labels.recipe, earlier.get("labels") or {}, work.device)
    key = {
        "dataset": inputs.source.name,
        "seed": seed,
        "epochs": inputs.epochs,
        "images": inputs.distilled.fingerprint,
        "teacher": inputs.teacher and inputs.teacher.fingerprint,
        "labels": asdict(labels.recipe),
        **as_dict(settings),
        **_key_of_hard_targets(settings),
        **_key_of_stem(inputs),
    }
    if not work.finished_or_begin(training, key):
        device = work.device
        val = images.load(inputs.source, inputs.shape.image_size, settings.val_images).to(device)
        inputs = replace(inputs, distilled=inputs.distilled.to(device))
        labels.prepare(inputs.teacher, inputs.distilled, device)
        model, history = _train(settings, inputs, val, key, training, workers, device)
        _finish(work, settings, model, history, inputs.shape, key)
    return training.path


# What follows joins a student's key only where it tells it from another: elsewhere it would change the key of
# students that are made already.


def _key_of_hard_targets(settings):
    """{'view_target': 'hard labels'} of a student whose adversarial views are against these; else {}."""
    of_teacher = STUDENT_LOSSES[settings.loss].reads_teacher or settings.views_against == "teacher"
    return {} if of_teacher or not settings.adversarial_share else {"view_target": "hard labels"}


def _key_of_stem(inputs):
    """{'stem': that of a student without a teacher, whose fingerprint would tell it}; {} where it is the
    recipe's.
    """
    of_size = {"image_size": inputs.shape.image_size}
    usual = recipes.resolve(inputs.source.name, "pretrain", of_size).stem
    return {} if inputs.teacher or inputs.shape.stem == usual else {"stem": inputs.shape.stem}


def optimizer_of(model, settings):
    """AdamW, with weight decay on weights with more than one dimension only; or SGD, with it on all."""
    if settings.optimizer == "sgd":
        decay = {"momentum": settings.momentum, "weight_decay": settings.weight_decay}
        return torch.optim.SGD(model.parameters(), settings.learning_rate, **decay)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, settings.learning_rate)


class Averaged(nn.Module):
    """A student and the exponential moving average of its weights, which is what is measured and saved.

    The running statistics of batch norm are not averaged: they are the student's.
    """

    def __init__(self, model, decay):
        super().__init__()
        self.model, self.average, self.decay = model, copy.deepcopy(model), decay
        self.average.requires_grad_(False)

    @torch.no_grad()
    def update(self):
        """average <- decay * average + (1 - decay) * weights, after a step."""
        pairs = list(self.average.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(*pairs, 1 - self.decay)

    @torch.no_grad()
    def copy_buffers(self):
        """Takes over the student's running statistics, after an epoch."""
        for mean, value in zip(self.average.buffers(), self.model.buffers()):
            mean.copy_(value)


# ---- loop ----------------------------------------------------------------------------------------


def _train(settings, inputs, val, key, training, workers, device):
    """(trained PixelModel, perhaps in train mode; history: a row for each epoch)."""
    shape, seed, epochs = inputs.shape, key["seed"], inputs.epochs
    seeds.seed_everything(seed, "student", "weights")
    model = models.build_like(shape, settings.model).to(device)
    layout.arrange(
        model.network,
        channels_last=settings.channels_last,
        compile=settings.compile,
        sync_batch_norm=settings.sync_batch_norm,
    )
    optimizer = optimizer_of(model, settings)
    averaged = Averaged(model, settings.weight_average) if settings.weight_average else None
    student = averaged.average if averaged else model
    done, history = training.restore(averaged or model, optimizer)
    recipe = inputs.labels.recipe
    step = training_step(settings, model, optimizer, device, averaged)
    # Of few images an epoch is a few steps, which a measurement after each would take longer than.
    every = settings.evaluate_every or math.ceil(epochs / 10)
    about = f"{settings.model}, {epochs} epochs of {len(inputs.distilled)} labelled images"
    with Progress("student", epochs, "epoch", done, about=about, lines=LINES) as progress:
        for epoch in range(done, epochs):
            if settings.schedule == "step":
                factor = schedules.step(epoch, epochs)
            else:
                factor = schedules.cosine(epoch, epochs, settings.zeta)
            schedules.set_learning_rate(optimizer, settings.learning_rate * factor)
            loss = epoch_of(
                settings,
                model,
                step,
                rows=inputs.labels.rows(epoch),
                recipe=recipe,
                distilled=inputs.distilled,
                seed_key=(seed, "student", epoch),
                device=device,
            )
            if averaged:
                averaged.copy_buffers()
            row = {"epoch": epoch + 1, "loss": loss}
            last = epoch + 1 == epochs
            if (epoch + 1) % every == 0 or last:
                row["val accuracy"] = robustness.accuracy(
                    student,
                    val,
                    shape.image_size,
                    precision="fp32" if last else settings.precision,  # the last one is the result
                    workers=workers,
                    device=device,
                )
            history.append(row)
            progress.step(**{name: value for name, value in row.items() if name != "epoch"})
            progress.line(" ".join(f"{name} {value:.4g}" for name, value in row.items()))
            training.save_if_due(key, epoch + 1, averaged or model, optimizer, history)
    _check_finite(student, val, shape.image_size, device)
    return student, history


@torch.no_grad()
def _check_finite(student, val, size, device):
    """Raises UserError where the last step, after which no loss was seen, has ruined the student."""
    pixels = as_float(val.validation(images.spread(len(val), CHECKED_IMAGES), size).to(device))
    if not student.eval()(pixels).isfinite().all():
        raise UserError("the student's logits are no finite numbers at the end; lower --learning-rate")


def student_loss(settings, model, pixels, teacher_logits, targets, *, teacher_gradient=None, noise=None):
    """(1 - a) * loss(views) + a * loss(adversarial views) + w * distance(input gradients): a scalar.

    a is settings.adversarial_share, w settings.gradient_weight; the gradients are those at the views. pixels:
    (N, 3, S, S) in [0,1]. teacher_logits: (N, classes), of the clean views, which are the target of the
    adversarial ones as well. targets: (N, classes), mixed hard labels; the adversarial step is against these
    where the loss reads no logits. Where the settings need them, teacher_gradient: (N, 3, S, S) of its
    cross-entropy at the views, or its signs; noise: (N, 3, S, S) uniform in [0,1), with which the adversarial
    step begins.
    """
    share, weight = settings.adversarial_share, settings.gradient_weight
    of_views = of_adversarial = of_gradients = 0.0
    row = STUDENT_LOSSES[settings.loss]
    loss_of = function_of(row.function)
    if settings.squared_temperature and row.takes_squared:
        loss_of = functools.partial(loss_of, squared=True)
    if share < 1 or weight:
        seen = pixels.detach().requires_grad_(weight > 0)
        with twice_differentiable(model) if weight else contextlib.nullcontext():
            student_logits = devices.widened(model(seen))
        if share < 1:
            of_views = loss_of(student_logits, teacher_logits, targets, settings.temperature)
        if weight:
            of_gradients = gradient_distance(seen, student_logits, teacher_gradient, targets)
    if share > 0:
        if settings.views_against == "teacher":
            moved = views_against_teacher(pixels, teacher_gradient, epsilon=settings.view_epsilon)
        else:  # at temperature 1, as RSLAD's step; the loss of what it finds has the settings'
            wanted = teacher_logits.softmax(1) if row.reads_teacher else targets
            moved = adversarial_views(model, pixels, wanted, epsilon=settings.view_epsilon, noise=noise)
        student_logits = devices.widened(model(moved))
        of_adversarial = loss_of(student_logits, teacher_logits, targets, settings.temperature)
    return (1 - share) * of_views + share * of_adversarial + weight * of_gradients


def training_step(settings, model, optimizer, device, averaged=None):
    """The guard.run.graphs.Step that trains on a process's share of a mini-batch.

    averaged: the Averaged that follows the model, or None. Arguments: views (N, 3, S, S), teacher's logits
    and targets (N, classes), the teacher's gradient and noise as of `student_loss`, both perhaps None, and
    the number of images of the whole mini-batch. Results: the loss, times the share's images.
    """

    def body(pixels, logits, targets, gradient, noise, batch_size):
        optimizer.zero_grad()
        of_share = torch.zeros((), device=device)
        if len(pixels) or settings.sync_batch_norm:
            beside = {"teacher_gradient": gradient, "noise": noise}
            with devices.computing(settings.precision, device):
                loss = student_loss(settings, model, pixels, logits, targets, **beside)
                processes.share_of(loss, len(pixels), batch_size).backward()
            if len(pixels):  # of none it is not a number
                of_share = loss.detach() * len(pixels)
        elif settings.gradient_weight:  # the others add up inside the loss, and would wait for ever
            processes.sum_over_processes(of_share.clone())
        processes.add_gradients(model)
        optimizer.step()
        if averaged:
            averaged.update()
        return [of_share]

    captured = graphs.captures(settings.graphs, device)
    graphs.prepare(optimizer, captured, device)
    return graphs.Step(body, captured, "a step of the student")


def epoch_of(settings, model, step, *, rows, recipe, distilled, seed_key, device):
    """One pass over the labelled views; returns the mean loss.

    step: the model's training_step. rows, recipe: of guard.distilled.soft_labels. distilled: Packed on the
    device. seed_key: what all random draws depend on.
    """
    model.train()
    rank, size = processes.rank(), processes.world_size()
    seeds.seed_everything(*seed_key, rank)  # dropout, where the network has it
    draws = seeds.generator(*seed_key, rank, "views")
    noisy = settings.adversarial_share > 0 and settings.views_against == "student"
    total = torch.zeros((), device=device, dtype=torch.float64)
    for number, batch in enumerate(batches_of(rows, recipe.batch_size)):
        logits = torch.from_numpy(batch["logits"].astype("float32"))
        targets, gradient = targets_of(distilled, batch), gradient_of(batch, distilled.pixels.shape[2])
        numbers = None
        if settings.dsa:
            draws_of_dsa = seeds.generator(*seed_key, number, "dsa")
            kind, numbers = siamese.draw(draws_of_dsa, len(batch), flip=settings.flip)
        pixels, *beside, numbers = look_beside(distilled, batch, logits, targets, gradient, numbers)
        if settings.dsa:
            pixels = model.denormalize(siamese.apply(model.normalize(pixels), kind, numbers))
        share = [each if each is None else each.tensor_split(size)[rank] for each in (pixels, *beside)]
        noise = None
        if noisy:
            there = seeds.on_device(draws, device)
            noise = torch.rand(share[0].shape, generator=there, device=device)
        (loss,) = step(*share, noise, len(batch))
        total += loss
    processes.average_statistics(model.network)
    mean = processes.sum_over_processes(total).item() / len(rows)
    if math.isnan(mean):
        raise UserError("the student's loss is not a number; lower --learning-rate")
    return mean


# ---- save ----------------------------------------------------------------------------------------


def _finish(work, settings, model, history, shape, key):
    results = {"val accuracy": history[-1]["val accuracy"]}
    student = Checkpoint(
        role="student",
        dataset=key["dataset"],
        model=settings.model,
        **asdict(shape),
        seed=key["seed"],
        settings=key,
        state=checkpoint.cpu_state(model.network),
        results=results,
    )
    entry = {"settings": key, "seed": key["seed"], "results": results, "history": history}
    said = robustness.on_val(results["val accuracy"], settings.val_images)
    work.finish(student, said=said, **entry, fingerprint=student.fingerprint)

"""Stage pretrain: a teacher, ordinary, with curvature regularizers (GUARD, GR), or adversarially trained."""

import functools
import math
import sys
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from guard import attacks, recipes
from guard.attacks import robustness
from guard.attacks.gradient_signs import sign_steps
from guard.data import augment, find, images, loading
from guard.data.loading import batch_ranges
from guard.errors import UserError
from guard.method import curvature, regularizers, schedules
from guard.networks import checkpoint, layout, memory, models
from guard.networks.checkpoint import Checkpoint
from guard.networks.training import Training
from guard.registry import ADVERSARIAL_TEACHERS, function_of
from guard.run import devices, precision, processes, seeds
from guard.run.progress import Progress
from guard.run.stage import Stage
from guard.settings import as_dict

CHECKED_IMAGES = 200  # validation images on which a teacher's health is looked at
MANY_SILENT = 0.25  # share of a layer's channels that a healthy network does not lose
SMALLER_STEPS = "lower --lambda or --learning-rate, or set --clip-grad-norm"

# ---- setup ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """What a teacher is trained and measured on. train, val: holders of guard.data.images on the device."""

    dataset: str
    train: object
    val: object
    workers: int
    device: torch.device

    def accuracy(self, model, precision="fp32"):
        """Percent of the validation images that `model` gets right, computing in `precision`."""
        size, where = model.image_size, {"workers": self.workers, "device": self.device}
        return robustness.accuracy(model, self.val, size, precision, **where)

    def checked(self, size):
        """(pixels, labels) of CHECKED_IMAGES images of val, spread evenly."""
        chosen = images.spread(len(self.val), CHECKED_IMAGES)
        pixels = augment.as_float(self.val.validation(chosen, size).to(self.device))
        return pixels, self.val.labels[chosen].to(self.device)

    def pgd10_accuracy(self, model, epsilon):
        """Accuracy (percent) under PGD10 within epsilon, on the checked images."""
        (pixels, labels), training = self.checked(model.image_size), model.training
        model.eval()
        correct = (~attacks.wrong(model, pixels, labels)).nonzero().squeeze(1)
        if len(correct):
            _, broken = sign_steps(
                model,
                pixels[correct],
                labels[correct],
                epsilon=epsilon,
                batch_size=memory.images_that_fit(model, model.image_size, self.device, len(correct)),
                random_start=True,
                relative_step=0.25,
                steps=10,
                draws=functools.partial(seeds.generator, "watched"),
            )
            correct = correct[~broken]
        model.train(training)
        return 100 * len(correct) / len(labels)


def pretrain(settings, *, dataset, root, output, log, seed, device_name, workers, force):
    """Trains a teacher by `settings` (settings.Pretrain) and writes OUTPUT/checkpoint.pt and its record.

    A finished teacher with the same settings is left as it is; an interrupted one goes on. Raises
    UserError for a folder that holds a teacher with other settings, unless `force`.
    """
    if settings.compile and regularizers.second_order(settings):
        raise UserError(
            "--compile cannot differentiate twice, which this regularizer needs; leave it out, or take"
            " --regularizer loss, without --gradient-regularization"
        )
    sources = [find.find(dataset, root, split) for split in ("train", "val")]
    find.check_pair(*sources)
    key = {"dataset": dataset, "data": sources[0].fingerprint, "seed": seed}
    work = Stage("pretrain", output, log=log, force=force, shared=True)
    with work.entered(device_name) as device:
        training = Training(work.output / "checkpoint.pt", "teacher")
        settings = precision.settled(settings, work.earlier_settings(training), device)
        key |= as_dict(settings)
        if work.finished_or_begin(training, key):
            return
        train = images.load(sources[0], settings.image_size, settings.images).to(device)
        val = images.load(sources[1], settings.image_size, settings.val_images).to(device)
        data = Data(dataset, train, val, workers, device)
        model, history = _train(settings, data, seed, key, training)
        finish(work, settings, model, data, key, seed, history)


# ---- model ---------------------------------------------------------------------------------------


def build(settings, dataset, classes, mean=None, std=None):
    """The PixelModel of a teacher, with first weights. mean, std: of the channels, None for the recipe's."""
    normalization = recipes.recipe(dataset)
    return models.build(
        settings.model,
        classes=len(classes),
        image_size=settings.image_size,
        stem=settings.stem,
        mean=mean or normalization.mean,
        std=std or normalization.std,
    )


# ---- loss ----------------------------------------------------------------------------------------


def teacher_loss(settings, model, pixels, labels, *, batch_size, step, draws):
    """The ordinary (or adversarial) loss of a mini-batch, plus the regularizers that are on.

    pixels: (B, 3, S, S) in [0,1]; labels: (B,). batch_size: of the whole mini-batch, of which this may be one
    process's share. step: number of the training step. The regularizers are added at each N-th step, N
    settings.curvature_every, with N times their weight, so that their mean over the steps stays. They look at
    the clean images, in adversarial training as well. draws: generator of adversarial training's noise.
    Returns (loss to call backward() on, number of correct predictions); the predictions are those of the
    adversarial images in adversarial training.
    """
    if settings.adversarial == "none":
        x = model.normalize(pixels)
        logits = devices.widened(model.network(x))
        loss = F.cross_entropy(logits, labels)
    else:
        adversarial_loss = function_of(ADVERSARIAL_TEACHERS[settings.adversarial].function)
        loss, logits = adversarial_loss(model, pixels, labels, settings=settings, draws=draws)
        x = model.normalize(pixels)
    regularized = settings.curvature or settings.gradient_regularization
    if regularized and step % settings.curvature_every == 0:
        penalty = regularizers.penalty(settings, model.network, x, labels, batch_size)
        loss = loss + settings.curvature_every * penalty
    return loss, (logits.detach().argmax(1) == labels).sum()


# ---- loop ----------------------------------------------------------------------------------------


def _train(settings, data, seed, key, training):
    """(trained PixelModel in eval mode, history: a row for each epoch)."""
    seeds.seed_everything(seed, "teacher", "weights")
    model = build(settings, data.dataset, data.train.classes).to(data.device)
    layout.arrange(
        model.network,
        channels_last=settings.channels_last,
        compile=settings.compile,
        sync_batch_norm=settings.sync_batch_norm,
    )
    optimizer = torch.optim.SGD(
        model.parameters(),
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    done, history = training.restore(model, optimizer)
    steps = len(batch_ranges(len(data.train), settings.batch_size))
    about = f"{settings.model}, {settings.epochs} epochs of {len(data.train)} images{_additions(settings)}"
    watched = settings.adversarial != "none" and ADVERSARIAL_TEACHERS[settings.adversarial].one_step
    with Progress("teacher", settings.epochs * steps, "step", done * steps, about=about) as progress:
        for epoch in range(done, settings.epochs):
            row = _epoch(settings, model, optimizer, data, seed, epoch, progress)
            row["val accuracy"] = data.accuracy(model, settings.precision)
            if watched:
                row["pgd10 accuracy"] = data.pgd10_accuracy(model, settings.epsilon)
                _warn_of_overfitting(history, row["pgd10 accuracy"], epoch + 1)
            history.append({"epoch": epoch + 1, **row})
            shown = " ".join(f"{name} {value:.4g}" for name, value in row.items())
            progress.line(f"epoch {epoch + 1}/{settings.epochs} {shown}")
            training.save_if_due(key, epoch + 1, model, optimizer, history)
    return model.eval(), history


def _learning_rate_factor(settings, step, steps_of_epoch):
    """What share of settings.learning_rate a step of the training takes."""
    if settings.schedule == "one-cycle":
        return schedules.one_cycle(step, settings.epochs * steps_of_epoch)
    return schedules.cosine(step // steps_of_epoch, settings.epochs)


def _warn_of_overfitting(history, accuracy, epoch):
    """Warns of catastrophic overfitting: robust to its own one step alone (Wong et al., ICLR 2020)."""
    best = max((row["pgd10 accuracy"] for row in history), default=0.0)
    if accuracy < best / 2 and processes.rank() == 0:
        print(
            f"warning: in epoch {epoch} the accuracy under PGD10 fell to {accuracy:.1f} % from {best:.1f} %"
            " (catastrophic overfitting): the teacher has learnt to fool its own one-step attack; lower"
            " --epsilon or --learning-rate",
            file=sys.stderr,
            flush=True,
        )


def _warn_of_silence(layer, silent, channels):
    """Warns of a layer that has lost many channels, as a ConvNet does by first steps that are too long."""
    if silent >= MANY_SILENT * channels:
        print(
            f"warning: {silent} of {channels} channels of {layer} are zero on all images looked at, and"
            " learn no more; --schedule one-cycle, or a lower --learning-rate, keeps them",
            file=sys.stderr,
            flush=True,
        )


def _additions(settings):
    """What is added to the ordinary loss, as words."""
    added = []
    if settings.curvature:
        added.append(f"curvature regularizer {settings.regularizer}")
    if settings.gradient_regularization:
        added.append("gradient regularization")
    if settings.adversarial != "none":
        added.append(f"adversarial training {settings.adversarial}")
    return "".join(f", {words}" for words in added)


def _epoch(settings, model, optimizer, data, seed, epoch, progress):
    """One pass over the training images; a row of the history."""
    mini_batches = loading.TrainingEpoch(
        data.train,
        augmentation=settings.augmentation,
        flip=settings.flip,
        size=settings.image_size,
        batch_size=settings.batch_size,
        seed=seed,
        epoch=epoch,
        share=(processes.rank(), processes.world_size()),
    )
    draws = seeds.generator(seed, "teacher noise", epoch, processes.rank())
    seeds.seed_everything(seed, "teacher dropout", epoch, processes.rank())  # where the network has it
    model.train()
    total = torch.zeros(2, device=data.device, dtype=torch.float64)  # loss, correct predictions
    images = 0
    for number, (pixels, labels) in enumerate(loading.batches(mini_batches, data.workers, data.device)):
        batch_size = len(mini_batches.batches[number])
        optimizer.zero_grad()
        loss, correct = torch.zeros(2, device=data.device)
        step = epoch * len(mini_batches) + number
        factor = _learning_rate_factor(settings, step, len(mini_batches))
        schedules.set_learning_rate(optimizer, settings.learning_rate * factor)
        if len(labels) or settings.sync_batch_norm:
            given = {"batch_size": batch_size, "step": step, "draws": draws}
            with devices.computing(settings.precision, data.device):
                loss, correct = teacher_loss(settings, model, pixels, labels, **given)
                # Weighted by its part of the mini-batch: the gradients add up to those of the whole mean.
                processes.share_of(loss, len(labels), batch_size).backward()
        elif step % settings.curvature_every == 0:
            # No images here, but the other processes sum inside the regularizer, and would wait for ever.
            regularizers.take_part(settings, data.device)
        processes.add_gradients(model)
        if settings.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad_norm)
        optimizer.step()
        # The loss of a process without images in this mini-batch is not a number.
        summed = loss.detach() * len(labels) if len(labels) else torch.zeros_like(total[0])
        total += torch.stack([summed, correct])
        images += len(labels)
        progress.step(loss=loss, epoch=epoch + 1)
    processes.average_statistics(model.network)
    of_all = torch.cat([total, total.new_tensor([images])])
    loss, correct, seen = processes.sum_over_processes(of_all).tolist()
    if not math.isfinite(loss):
        raise UserError(f"the teacher's loss is not a number in epoch {epoch + 1}; {SMALLER_STEPS}")
    return {"loss": loss / seen, "train accuracy": 100 * correct / seen}


# ---- save ----------------------------------------------------------------------------------------


def finish(work, settings, model, data, key, seed, history):
    """Measures the trained model, and writes checkpoint and record; returns what was measured, on the first
    process alone. Raises UserError for a model that gives no finite numbers.
    """
    teacher = None
    if processes.rank() == 0:
        teacher = Checkpoint(
            role="teacher",
            dataset=data.dataset,
            model=settings.model,
            stem=settings.stem,
            image_size=settings.image_size,
            mean=model.mean.flatten().tolist(),
            std=model.std.flatten().tolist(),
            classes=list(data.val.classes),
            seed=seed,
            settings=key,
            state=checkpoint.cpu_state(model.network),
        )
        results = {"val accuracy": data.accuracy(model)}
        plain = teacher.build(data.device)  # not compiled, which could neither be watched nor derived twice
        pixels = data.checked(model.image_size)[0]
        with torch.no_grad():
            largest = [plain(part).abs().amax() for part in pixels.split(32)]
        _check_finite("logits", torch.stack(largest), history)
        if silent := models.silent_channels(plain, pixels):
            worst = max(silent, key=lambda row: row[1] / row[2])
            results["silent channels"] = dict(zip(("layer", "silent", "channels"), worst))
            if history and not settings.val_images:  # else not trained here, or seen on too few images
                _warn_of_silence(*worst)
        if settings.curvature_images:
            yardstick = recipes.recipe(data.dataset).pretrain.h  # settings.h may be another
            measured = measure_curvature(plain, data, settings.curvature_images, yardstick)
            _check_finite("curvatures", torch.tensor([*measured.values()]), history)
            results["curvature"] = measured
        teacher = replace(teacher, results=results)
        entry = {"settings": key, "seed": seed, "results": results, "history": history}
        entry |= {"checkpoint": str(work.ledger.path), "fingerprint": teacher.fingerprint}
        said = robustness.on_val(results["val accuracy"], settings.val_images)
    else:
        entry, said = {}, ""
    work.finish(teacher, said=said, **entry)
    return entry.get("results", {})


def _check_finite(what, values, history):
    """Raises UserError where the last step, after which no loss was seen, has ruined the teacher, and for
    weights from elsewhere, which have no history, that do it.
    """
    if not values.isfinite().all():
        remedy = SMALLER_STEPS if history else "check --mean and --std, or take other weights"
        raise UserError(f"the teacher's {what} are no finite numbers at the end; {remedy}")


def measure_curvature(model, data, count, h, batch_size=32):
    """Means of the three curvatures of curvature.measure over `count` validation images, spread evenly."""
    val, device = data.val, data.device
    chosen = images.spread(len(val), count)
    sums = {}
    with Progress("curvature", len(chosen), "image") as progress:
        for part in chosen.split(batch_size):
            pixels = augment.as_float(val.validation(part, model.image_size).to(device))
            draws = seeds.generator("curvature", int(part[0]))
            x, labels = model.normalize(pixels), val.labels[part].to(device)
            measured = curvature.measure(model.network, x, labels, h, generator=draws)
            for name, values in measured.items():
                sums[name] = sums.get(name, 0.0) + values.double().sum().item()
            progress.step(len(part))
    means = {name: value / len(chosen) for name, value in sums.items()}
    return means | {"images": len(chosen), "h": h}

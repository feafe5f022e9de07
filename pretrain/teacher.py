"""Stage pretrain: a teacher, ordinary, with curvature regularizers (GUARD, GR), or adversarially trained."""

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from guard import recipes
from guard.attacks import robustness
from guard.data import augment, find, images, loading
from guard.errors import UserError
from guard.method import curvature, regularizers, schedules
from guard.networks import checkpoint, layout, models
from guard.networks.checkpoint import Checkpoint
from guard.networks.weights import load_weights
from guard.registry import ADVERSARIAL_TEACHERS, function_of
from guard.run import devices, fingerprints, lock, processes, records, seeds, stage, storage
from guard.run.progress import Progress
from guard.settings import as_dict

# ---- setup ---------------------------------------------------------------------------------------


def pretrain(settings, *, dataset, root, output, log, seed, device, workers, force):
    """Trains a teacher by `settings` (settings.Pretrain) and writes OUTPUT/checkpoint.pt and its record.

    A finished teacher with the same settings is left as it is; an interrupted one goes on. Raises
    UserError for a folder that holds a teacher with other settings, unless `force`.
    """
    output = Path(output)
    log = Path(log or output / "log.json")
    if settings.compile and regularizers.second_order(settings):
        raise UserError(
            "--compile cannot differentiate twice, which this regularizer needs; leave it out, or take"
            " --regularizer loss"
        )
    sources = [find.find(dataset, root, split) for split in ("train", "val")]
    find.check_pair(*sources)
    key = {"dataset": dataset, "data": sources[0].fingerprint, "seed": seed, **as_dict(settings)}
    with _alone(output, log), devices.joined(device) as where:
        if checkpoint.finished(output / "checkpoint.pt", "teacher", key, force):
            return
        records.begin(log, output / "checkpoint.pt")
        train = images.load(sources[0], settings.image_size, settings.images).to(where)
        val = images.load(sources[1], settings.image_size).to(where)
        resume = stage.Resume(output / "resume.pt", key, force)
        model, history = _train(settings, train, val, dataset, seed, where, workers, resume)
        if processes.rank() == 0:
            teacher = _checkpoint(settings, model, train.classes, dataset, seed, key)
            _finish(
                settings,
                teacher,
                model,
                val,
                output,
                log,
                where,
                workers,
                history=history,
                seconds=resume.elapsed(),
            )
        processes.barrier()


def adopt(settings, *, weights, dataset, root, output, log, seed, device, workers, force):
    """Makes a teacher of a plain state_dict of a known architecture (a file, or the name of
    torchvision's own weights); its accuracy on val is measured and stored, so that a wrong class order
    shows at once.
    """
    output = Path(output)
    log = Path(log or output / "log.json")
    origin = fingerprints.of_file(weights) if Path(weights).is_file() else weights
    key = {
        "dataset": dataset,
        "weights": origin,
        "model": settings.model,
        "image_size": settings.image_size,
        "stem": settings.stem,
    }
    with _alone(output, log), devices.joined(device) as where:
        if checkpoint.finished(output / "checkpoint.pt", "teacher", key, force):
            return
        source = find.find(dataset, root, "val")
        val = images.load(source, settings.image_size).to(where)
        model = _build(settings, dataset, source.classes)
        load_weights(model.network, weights, settings.model)
        model.to(where).eval()
        records.begin(log, output / "checkpoint.pt")
        if processes.rank() == 0:
            teacher = _checkpoint(settings, model, source.classes, dataset, seed, key)
            _finish(settings, teacher, model, val, output, log, where, workers, history=[], seconds=0.0)


@contextlib.contextmanager
def _alone(output, log):
    """Waits for whoever makes the same teacher; but not for a record elsewhere, whose holder may be
    waiting for this teacher.
    """
    elsewhere = [] if log.parent.resolve() == output.resolve() else [log.parent]
    with lock.held(output, wait=True), lock.held(*elsewhere):
        yield


# ---- model ---------------------------------------------------------------------------------------


def _build(settings, dataset, classes):
    normalization = recipes.recipe(dataset)
    return models.build(
        settings.model,
        classes=len(classes),
        image_size=settings.image_size,
        stem=settings.stem,
        mean=normalization.mean,
        std=normalization.std,
    )


# ---- loss ----------------------------------------------------------------------------------------


def teacher_loss(settings, model, pixels, labels, *, batch_size, step, draws):
    """The ordinary (or adversarial) loss of a mini-batch, plus the regularizers that are on.

    pixels: (B, 3, S, S) in [0,1]; labels: (B,). batch_size: of the whole mini-batch, of which this may be one
    process's share. step: number of the training step; settings.curvature_every decides at which ones the
    regularizers are added, and their weight. draws: generator of adversarial training's noise.
    Returns (loss with graph, number of correct predictions).
    """
    if settings.adversarial == "none":
        x = model.normalize(pixels)
        logits = devices.widened(model.network(x))
        loss = F.cross_entropy(logits, labels)
    else:
        adversarial_loss = function_of(ADVERSARIAL_TEACHERS[settings.adversarial])
        loss, logits = adversarial_loss(model, pixels, labels, settings=settings, draws=draws)
        x = model.normalize(pixels)
    regularized = settings.curvature or settings.gradient_regularization
    if regularized and step % settings.curvature_every == 0:
        penalty = regularizers.penalty(settings, model.network, x, labels, batch_size)
        loss = loss + settings.curvature_every * penalty
    return loss, (logits.detach().argmax(1) == labels).sum()


# ---- loop ----------------------------------------------------------------------------------------


def _train(settings, train, val, dataset, seed, where, workers, resume):
    seeds.seed_everything(seed, "teacher", "weights")
    model = _build(settings, dataset, train.classes).to(where)
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
    done, history = resume.restore(model, optimizer)
    steps = -(-len(train) // settings.batch_size)
    with Progress("teacher", settings.epochs * steps, "step", done * steps) as progress:
        for epoch in range(done, settings.epochs):
            schedules.set_learning_rate(
                optimizer, settings.learning_rate * schedules.cosine(epoch, settings.epochs)
            )
            row = _epoch(settings, model, optimizer, train, seed, epoch, where, workers, progress)
            row["val accuracy"] = robustness.accuracy(
                model, val, settings.image_size, workers=workers, device=where
            )
            history.append({"epoch": epoch + 1, **row})
            progress.line(
                f"epoch {epoch + 1}/{settings.epochs} "
                + " ".join(f"{name} {value:.4g}" for name, value in row.items())
            )
            resume.save(epoch + 1, model, optimizer, history)
    return model.eval(), history


def _epoch(settings, model, optimizer, train, seed, epoch, where, workers, progress):
    share = (processes.rank(), processes.world_size())
    passes = loading.TrainingEpoch(
        train,
        augmentation=settings.augmentation,
        batch_size=settings.batch_size,
        size=settings.image_size,
        seed=seed,
        epoch=epoch,
        share=share,
    )
    draws = seeds.generator(seed, "teacher noise", epoch, processes.rank())
    seeds.seed_everything(seed, "teacher", epoch, processes.rank())  # dropout, where the network has it
    model.train()
    total = torch.zeros(3, device=where, dtype=torch.float64)
    for number, (pixels, labels) in enumerate(loading.batches(passes, workers, where)):
        batch_size = len(passes.batches[number])
        optimizer.zero_grad()
        loss, right = torch.zeros(2, device=where)
        step = epoch * len(passes) + number
        if len(labels) or settings.sync_batch_norm:
            with devices.computing(settings.precision, where):
                loss, right = teacher_loss(
                    settings, model, pixels, labels, batch_size=batch_size, step=step, draws=draws
                )
                processes.share_of(loss, len(labels), batch_size).backward()
        elif settings.curvature and step % settings.curvature_every == 0:
            regularizers.take_part(settings, where)
        processes.add_gradients(model)
        if settings.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad_norm)
        optimizer.step()
        total += torch.stack(
            [
                loss.detach() * len(labels) if len(labels) else torch.zeros_like(total[0]),
                right,
                right.new_tensor(len(labels)),
            ]
        )
        progress.step(loss=loss, epoch=epoch + 1)
    processes.average_statistics(model)
    loss, right, seen = processes.sum_over_processes(total).tolist()
    if math.isnan(loss):
        raise UserError(
            f"the teacher's loss is not a number in epoch {epoch + 1}; lower --lambda or --learning-rate, or"
            " set --clip-grad-norm"
        )
    return {"loss": loss / seen, "train accuracy": 100 * right / seen}


# ---- save ----------------------------------------------------------------------------------------


def _checkpoint(settings, model, classes, dataset, seed, key):
    return Checkpoint(
        role="teacher",
        dataset=dataset,
        model=settings.model,
        stem=settings.stem,
        image_size=settings.image_size,
        mean=model.mean.flatten().tolist(),
        std=model.std.flatten().tolist(),
        classes=list(classes),
        seed=seed,
        settings=key,
        state=checkpoint.cpu_state(model.network),
    )


def _finish(settings, teacher, model, val, output, log, where, workers, history, seconds):
    results = {
        "val accuracy": robustness.accuracy(model, val, teacher.image_size, workers=workers, device=where)
    }
    if settings.curvature_images:
        results["curvature"] = measure_curvature(
            model, val, teacher.image_size, settings.curvature_images, settings.h, where
        )
    teacher = replace(teacher, results=results)
    with teacher.saving(output / "checkpoint.pt"):
        records.update(
            log,
            "pretrain",
            {
                "settings": teacher.settings,
                "seed": teacher.seed,
                "results": results,
                "history": history,
                "seconds": seconds,
                "checkpoint": str(output / "checkpoint.pt"),
                "fingerprint": teacher.fingerprint,
                "environment": records.environment(where),
            },
        )
    storage.remove(output / "resume.pt")
    print(f"teacher: {results['val accuracy']:.2f} % on val, in {output / 'checkpoint.pt'}", flush=True)


def measure_curvature(model, val, size, count, h, where, batch_size=32):
    """Means over `count` validation images, spread evenly over val, of the three curvatures of
    curvature.measure.
    """
    chosen = torch.linspace(0, len(val) - 1, min(count, len(val))).round().long()
    sums = {}
    with Progress("curvature", len(chosen), "image") as progress:
        for part in chosen.split(batch_size):
            x, labels = (
                model.normalize(augment.as_float(val.validation(part, size).to(where))),
                val.labels[part].to(where),
            )
            measured = curvature.measure(
                model.network, x, labels, h, generator=seeds.generator("curvature", int(part[0]))
            )
            for name, values in measured.items():
                sums[name] = sums.get(name, 0.0) + values.double().sum().item()
            progress.step(len(part))
    return {name: value / len(chosen) for name, value in sums.items()} | {"images": len(chosen), "h": h}

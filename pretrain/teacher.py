"""Stage pretrain: a teacher, ordinary, with curvature regularizers (GUARD, GR), or adversarially trained."""

import math
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from guard import (
    checkpoint,
    curvature,
    datasets,
    images,
    models,
    recipes,
    records,
    training,
)
from guard import device as devices
from guard.checkpoint import Checkpoint
from guard.errors import UserError
from pretrain.adversarial import adversarial_loss

# ---- setup -----------------------------------------------------------------------------------------------------------------------


def pretrain(settings, *, dataset, root, output, log, seed, device, workers, force):
    """Trains a teacher by `settings` (recipes.Pretrain) and writes OUTPUT/checkpoint.pt and its record.

    A finished teacher with the same settings is left as it is; an interrupted one goes on. Raises UserError for a folder that holds
    a teacher with other settings, unless `force`.
    """
    output = Path(output)
    key = {"dataset": dataset, "seed": seed, **recipes.as_dict(settings)}
    if _finished(output / "checkpoint.pt", key, force):
        return
    devices.make_deterministic()
    with devices.process_group():
        where = devices.select(device)
        train, val = _data(settings, dataset, root, where)
        started = time.time()
        model, history = _train(settings, train, val, dataset, seed, where, workers, training.Resume(output / "resume.pt", key, force))
        seconds = time.time() - started
        if devices.rank() == 0:
            teacher = _checkpoint(settings, model, train.classes, dataset, seed, key)
            _finish(settings, teacher, model, val, output, log or output / "log.json", where, workers, history=history, seconds=seconds)
        devices.barrier()


def adopt(settings, *, weights, dataset, root, output, log, seed, device, workers, force):
    """Makes a teacher of a plain state_dict of a known architecture (a file, or the name of torchvision's own weights); its accuracy
    on val is measured and stored, so that a wrong class order shows at once."""
    output = Path(output)
    key = {"dataset": dataset, "weights": weights, "model": settings.model, "image_size": settings.image_size, "stem": settings.stem}
    if _finished(output / "checkpoint.pt", key, force):
        return
    where = devices.select(device)
    source = datasets.find(dataset, root, "val")
    val = images.load(source, settings.image_size)
    model = _build(settings, dataset, source.classes)
    load_weights(model.network, weights, settings.model)
    model.to(where)
    teacher = _checkpoint(settings, model, source.classes, dataset, seed, key)
    _finish(settings, teacher, model, val, output, log or output / "log.json", where, workers, history=[], seconds=0.0)


def _finished(path, key, force):
    if force or not path.exists():
        return False
    found = checkpoint.load(path, "teacher").settings
    difference = [name for name in sorted({*key, *found}) if key.get(name) != found.get(name)]
    if difference:
        raise UserError(f"{path} is a teacher with another {', '.join(difference)}; choose another teacher id (-y in run.sh) or --force (-f) to replace it")
    if devices.rank() == 0:
        print(f"the teacher {path} is finished; --force (-f in run.sh) trains it again")
    return True


def _data(settings, dataset, root, where):
    sources = [datasets.find(dataset, root, split) for split in ("train", "val")]
    datasets.check_pair(*sources)
    train = images.load(sources[0], settings.image_size, settings.images)
    return train.to(where), images.load(sources[1], settings.image_size).to(where)


# ---- model -----------------------------------------------------------------------------------------------------------------------


def _build(settings, dataset, classes):
    normalization = recipes.recipe(dataset)
    return models.build(settings.model, classes=len(classes), image_size=settings.image_size, stem=settings.stem, mean=normalization.mean, std=normalization.std)


def load_weights(network, weights, name):
    """Loads a state_dict into `network`, strictly. weights: a file (also saved from DataParallel, or under the keys model, state_dict
    or net), or the name of torchvision's weights of model `name`. Raises UserError that says which keys do not fit."""
    if Path(weights).is_file():
        state = checkpoint.read(weights)
    else:
        state = _torchvision_state(weights, name)
    for key in ("model", "state_dict", "net"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{weights} holds no state_dict; save one with torch.save(model.state_dict(), FILE)")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    own = network.state_dict()
    wrong = [f"missing {key}" for key in own if key not in state] + [f"unknown {key}" for key in state if key not in own]
    wrong += [f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}" for key in own if key in state and state[key].shape != own[key].shape]
    if wrong:
        raise UserError(f"{weights} does not fit the model {name}: {'; '.join(wrong[:4])}{f' and {len(wrong) - 4} more' if len(wrong) > 4 else ''}; check --model, --stem and the classes")
    network.load_state_dict(state)


def _torchvision_state(weights, name):
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(name)[weights].get_state_dict(progress=True)
    except (ValueError, KeyError):
        raise UserError(f"there is no file {weights}, and torchvision has no weights of that name for {name}; name a file or, say, IMAGENET1K_V1") from None
    except OSError as problem:
        raise UserError(f"torchvision's weights {weights} for {name} cannot be downloaded ({problem}); give a file to --weights") from None


# ---- loss ------------------------------------------------------------------------------------------------------------------------


def teacher_loss(settings, model, pixels, labels, batch_size, draws):
    """The ordinary (or adversarial) loss plus the regularizers that are on: (loss with graph, number of correct predictions)."""
    if settings.adversarial == "none":
        x = model.normalize(pixels)
        logits = model.network(x)
        loss = F.cross_entropy(logits, labels)
    else:
        loss, logits = adversarial_loss(model, pixels, labels, style=settings.adversarial, epsilon=settings.h, beta=settings.beta, draws=draws)
        x = model.normalize(pixels)
    if settings.curvature or settings.gradient_regularization:
        loss = loss + curvature.penalty(
            model.network, x, labels,
            regularizer=settings.regularizer if settings.curvature else None, lambda_=settings.lambda_, h=settings.h, beta=settings.beta,
            gradient_regularization=settings.gradient_regularization, batch_size=batch_size,
        )  # fmt: skip
    return loss, (logits.detach().argmax(1) == labels).sum()


# ---- loop ------------------------------------------------------------------------------------------------------------------------


def _train(settings, train, val, dataset, seed, where, workers, resume):
    torch.manual_seed(seed)
    model = _build(settings, dataset, train.classes).to(where)
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay)
    done, history = resume.restore(model, optimizer)
    steps = -(-len(train) // settings.batch_size)
    with training.Progress("teacher", settings.epochs * steps, "step", done * steps) as progress:
        for epoch in range(done, settings.epochs):
            training.set_learning_rate(optimizer, settings.learning_rate * training.cosine(epoch, settings.epochs))
            row = _epoch(settings, model, optimizer, train, seed, epoch, where, workers, progress)
            row["val accuracy"] = training.accuracy(model, val, settings.image_size, workers=workers, where=where)
            history.append({"epoch": epoch + 1, **row})
            progress.line(f"epoch {epoch + 1}/{settings.epochs} " + " ".join(f"{name} {value:.4g}" for name, value in row.items()))
            resume.save(epoch + 1, model, optimizer, history)
    return model.eval(), history


def _epoch(settings, model, optimizer, train, seed, epoch, where, workers, progress):
    share = (devices.rank(), devices.world_size())
    passes = images.TrainingEpoch(train, augmentation=settings.augmentation, batch_size=settings.batch_size, size=settings.image_size, seed=seed, epoch=epoch, share=share)
    draws = devices.generator(seed, "teacher noise", epoch, devices.rank())
    torch.manual_seed(hash((seed, epoch, devices.rank())))  # dropout, where the network has it
    model.train()
    total = torch.zeros(3, device=where, dtype=torch.float64)
    for number, (pixels, labels) in enumerate(images.batches(passes, workers, where)):
        batch_size = len(passes.batches[number])
        loss, right = teacher_loss(settings, model, pixels, labels, batch_size, draws)
        optimizer.zero_grad()
        loss.backward()
        training.average_gradients(model, len(labels) / batch_size)
        if settings.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad_norm)
        optimizer.step()
        total += torch.stack([loss.detach() * len(labels), right, right.new_tensor(len(labels))])
        progress.step(loss=loss, epoch=epoch + 1)
    loss, right, seen = devices.sum_over_processes(total).tolist()
    if math.isnan(loss):
        raise UserError(f"the teacher's loss is not a number in epoch {epoch + 1}; lower --lambda or --learning-rate, or set --clip-grad-norm")
    return {"loss": loss / seen, "train accuracy": 100 * right / seen}


# ---- save ------------------------------------------------------------------------------------------------------------------------


def _checkpoint(settings, model, classes, dataset, seed, key):
    return Checkpoint(
        role="teacher", dataset=dataset, model=settings.model, stem=settings.stem, image_size=settings.image_size,
        mean=model.mean.flatten().tolist(), std=model.std.flatten().tolist(), classes=list(classes), seed=seed, settings=key,
        state=checkpoint.cpu_state(model.network),
    )  # fmt: skip


def _finish(settings, teacher, model, val, output, log, where, workers, history, seconds):
    results = {"val accuracy": training.accuracy(model, val, teacher.image_size, workers=workers, where=where)}
    if settings.curvature_images:
        results["curvature"] = measure_curvature(model, val, teacher.image_size, settings.curvature_images, settings.h, where)
    teacher = replace(teacher, results=results)
    teacher.save(output / "checkpoint.pt")
    records.update(log, "pretrain", {
        "settings": teacher.settings, "seed": teacher.seed, "results": results, "history": history, "seconds": seconds,
        "checkpoint": str(output / "checkpoint.pt"), "fingerprint": teacher.fingerprint, "environment": records.environment(where),
    })  # fmt: skip
    (output / "resume.pt").unlink(missing_ok=True)
    print(f"teacher: {results['val accuracy']:.2f} % on val, in {output / 'checkpoint.pt'}", flush=True)


def measure_curvature(model, val, size, count, h, where, batch_size=32):
    """Means over `count` validation images, spread evenly over val, of the three curvatures of curvature.measure."""
    chosen = torch.linspace(0, len(val) - 1, min(count, len(val))).round().long()
    sums = {}
    for part in chosen.split(batch_size):
        x, labels = model.normalize(val.validation(part, size).to(where)), val.labels[part].to(where)
        measured = curvature.measure(model.network, x, labels, h, generator=devices.generator("curvature", int(part[0])))
        for name, values in measured.items():
            sums[name] = sums.get(name, 0.0) + values.double().sum().item()
    return {name: value / len(chosen) for name, value in sums.items()} | {"images": len(chosen), "h": h}

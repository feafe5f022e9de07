"""Stage train."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import torch

from guard.attacks import robustness
from guard.data import find
from guard.data.images import load
from guard.distilled import image_folder
from guard.distilled.label_store import LabelStore
from guard.distilled.soft_labels import batches_of, check_classes, label_recipe, look, make_epoch, targets_of
from guard.errors import UserError
from guard.method import schedules
from guard.networks import checkpoint, layout, models
from guard.networks.checkpoint import Checkpoint
from guard.registry import STUDENT_LOSSES, function_of
from guard.report import experiment
from guard.run import devices, lock, processes, records, seeds, stage
from guard.run.progress import Progress
from guard.settings import as_dict
from train import evaluate


def train(
    settings,
    label_settings,
    attack_settings,
    *,
    epochs,
    dataset,
    root,
    distilled,
    labels,
    teacher_path,
    output,
    log,
    seed,
    device,
    workers,
    force,
):
    """Trains a student by `settings` (settings.Train), attacks it and its teacher by `attack_settings`
    (settings.Evaluate), reports.

    labels: a folder of soft labels, or 'online' for labels made on the fly by `label_settings`
    (settings.Relabel). epochs: of training, as many as were labelled where it is None. A finished student
    with the same settings is left as it is, an interrupted one goes on. Raises UserError for artifacts
    that do not belong together.
    """
    output = Path(output)
    log = Path(log or output / "log.json")
    with lock.held(output, log.parent), devices.joined(device) as where:
        teacher = checkpoint.load(teacher_path, "teacher")
        images = image_folder.load_distilled(distilled)
        check_classes(teacher, images, distilled)
        source = find.find(dataset, root, "val")
        if list(source.classes) != list(teacher.classes):
            raise UserError(
                f"the classes of {source.path} are not those of the teacher {teacher_path}; use the data set"
                f" it was trained on, {teacher.dataset}"
            )
        recipe, epoch_rows = _labels(labels, label_settings, teacher, images, seed, epochs)
        key = {
            "dataset": dataset,
            "seed": seed,
            "epochs": epochs or recipe.epochs,
            "images": images.fingerprint,
            "teacher": teacher.fingerprint,
            "labels": asdict(recipe),
            **as_dict(settings),
        }
        teacher_log = Path(teacher_path).parent / "log.json"
        for needed_later in (teacher_log, log):
            records.read(needed_later)  # a damaged one is told before the work
        if not checkpoint.finished(output / "checkpoint.pt", "student", key, force):
            records.begin(log, output / "checkpoint.pt")
            val = load(source, teacher.image_size).to(where)
            labeller = teacher.build(where)
            layout.arrange(labeller.network, channels_last=recipe.channels_last, compile=recipe.compile)
            rows = epoch_rows(labeller, images.to(where))
            _train_and_save(
                settings,
                key,
                rows,
                recipe,
                images.to(where),
                val,
                teacher,
                output,
                log,
                where,
                workers,
                force,
            )
        processes.barrier()
        data = {
            "dataset": dataset,
            "root": root,
            "seed": seed,
            "where": where,
            "workers": workers,
            "force": force,
        }
        evaluate.evaluate_network(teacher, attack_settings, log=teacher_log, shared=True, **data)
        evaluate.evaluate_network(checkpoint.load(output / "checkpoint.pt"), attack_settings, log=log, **data)
        if processes.rank() == 0:
            # The experiment's record is whole, although teachers are shared; one that came without its
            # log has no entry 'pretrain'.
            for entry in {"pretrain", "evaluate teacher"} & set(shared := records.read(teacher_log)):
                records.update(log, entry, shared[entry])
            print(experiment.write(log, distilled), flush=True)
        processes.barrier()


def _labels(labels, label_settings, teacher, images, seed, epochs):
    """(LabelRecipe, function (teacher model, images) -> function epoch -> rows), from the store or made
    on the fly.
    """
    count, classes = len(images), len(images.classes)
    if labels == "online":
        recipe = label_recipe(replace(label_settings, epochs=epochs or label_settings.epochs), images, seed)
        return recipe, lambda model, pixels: lambda epoch: make_epoch(model, pixels, recipe, epoch)
    store = LabelStore(labels)
    recipe = store.open(images.fingerprint, images.classes, teacher.fingerprint)
    if epochs and epochs > recipe.epochs:
        raise UserError(
            f"{labels} holds labels for {recipe.epochs} epochs, --epochs asks for {epochs}; make more with"
            f" python -m relabel --epochs {epochs}"
        )
    return recipe, lambda model, pixels: lambda epoch: store.read(epoch, count, classes)


def optimizer_of(model, settings):
    """AdamW with weight decay on weights with more than one dimension only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, settings.learning_rate)


def _train_and_save(settings, key, rows_of, recipe, images, val, teacher, output, log, where, workers, force):
    epochs, seed = key["epochs"], key["seed"]
    resume = stage.Resume(output / "resume.pt", key, force)
    seeds.seed_everything(seed, "student", "weights")
    model = models.build(
        settings.model,
        classes=len(teacher.classes),
        image_size=teacher.image_size,
        stem=teacher.stem,
        mean=teacher.mean,
        std=teacher.std,
    ).to(where)
    layout.arrange(
        model.network,
        channels_last=settings.channels_last,
        compile=settings.compile,
        sync_batch_norm=settings.sync_batch_norm,
    )
    optimizer = optimizer_of(model, settings)
    done, history = resume.restore(model, optimizer)
    with Progress("student", epochs, "epoch", done) as progress:
        for epoch in range(done, epochs):
            schedules.set_learning_rate(optimizer, settings.learning_rate * schedules.cosine(epoch, epochs))
            row = {
                "epoch": epoch + 1,
                "loss": epoch_of(
                    settings,
                    model,
                    optimizer,
                    rows_of(epoch),
                    recipe,
                    images,
                    (seed, "student", epoch),
                    where,
                ),
            }
            if (epoch + 1) % settings.evaluate_every == 0 or epoch + 1 == epochs:
                row["val accuracy"] = robustness.accuracy(
                    model, val, teacher.image_size, workers=workers, device=where
                )
            history.append(row)
            progress.step(**{name: value for name, value in row.items() if name != "epoch"})
            progress.line(" ".join(f"{name} {value:.4g}" for name, value in row.items()))
            resume.save(epoch + 1, model, optimizer, history)
    if processes.rank() == 0:
        _save(settings, key, model, history, teacher, output, log, where, resume.elapsed())
        resume.done()


def epoch_of(settings, model, optimizer, rows, recipe, images, key, where):
    """One pass over the labelled views; returns the mean loss."""
    student_loss = function_of(STUDENT_LOSSES[settings.loss])
    model.train()
    seeds.seed_everything(*key, processes.rank())  # dropout, where the network has it
    total, share = (
        torch.zeros((), device=where, dtype=torch.float64),
        (processes.rank(), processes.world_size()),
    )
    for batch in batches_of(rows, recipe.batch_size):
        logits = torch.from_numpy(batch["logits"].astype("float32")).to(where)
        whole = look(images, batch), logits, targets_of(images, batch)
        pixels, logits, targets = (each.tensor_split(share[1])[share[0]] for each in whole)
        optimizer.zero_grad()
        if len(pixels) or settings.sync_batch_norm:
            with devices.computing(settings.precision, where):
                loss = student_loss(devices.widened(model(pixels)), logits, targets, settings.temperature)
                processes.share_of(loss, len(pixels), len(batch)).backward()
            total += loss.detach() * len(pixels) if len(pixels) else 0
        processes.add_gradients(model)
        optimizer.step()
    processes.average_statistics(model)
    mean = processes.sum_over_processes(total).item() / len(rows)
    if math.isnan(mean):
        raise UserError("the student's loss is not a number; lower --learning-rate")
    return mean


def _save(settings, key, model, history, teacher, output, log, where, seconds):
    results = {"val accuracy": history[-1]["val accuracy"]}
    student = Checkpoint(
        role="student",
        dataset=key["dataset"],
        model=settings.model,
        stem=teacher.stem,
        image_size=teacher.image_size,
        mean=teacher.mean,
        std=teacher.std,
        classes=teacher.classes,
        seed=key["seed"],
        settings=key,
        state=checkpoint.cpu_state(model.network),
        results=results,
    )
    with student.saving(output / "checkpoint.pt"):
        records.update(
            log,
            "train",
            {
                "settings": key,
                "seed": key["seed"],
                "results": results,
                "history": history,
                "seconds": seconds,
                "fingerprint": student.fingerprint,
                "environment": records.environment(where),
            },
        )
    print(f"student: {results['val accuracy']:.2f} % on val, in {output / 'checkpoint.pt'}", flush=True)

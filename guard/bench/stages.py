"""Steady-state speed of each stage beside the plain way of guard.bench.reference, which shares no pass and
decodes image by image.

Of guard, the benchmarks alone import stages: they time them.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import nn

from guard.bench import measure, reference, units
from guard.data import find, images, loading, pixel_cache
from guard.distilled import image_folder, label_store, soft_labels
from guard.networks import memory
from guard.recipes import recipe
from guard.run.devices import computing
from guard.run.seeds import generator
from guard.run.stage import Stage
from pretrain import teacher
from recover import sre2l
from recover.recovery import MOST_IMAGES


@dataclasses.dataclass(frozen=True)
class Case:
    """A network at a size. dataset: whose recipe counts; batch: images per step; classes: of the
    recovery's problems.
    """

    dataset: str
    model: str
    size: int
    batch: int
    classes: int = 10

    def __str__(self):
        return f"{self.model} at {self.size}, batch {self.batch}"

    def build(self, device, channels_last=False):
        return units.network(
            self.dataset,
            self.model,
            self.size,
            recipe(self.dataset).pretrain.stem,
            self.classes,
            device,
            channels_last,
        )

    def data(self, device):
        draws = torch.Generator().manual_seed(0)
        pixels = torch.rand(self.batch, 3, self.size, self.size, generator=draws)
        return pixels.to(device), torch.randint(self.classes, (self.batch,), generator=draws).to(device)


PAPER = {
    "teacher": [Case("cifar10", "resnet18", 32, 128), Case("imagenette", "resnet18", 224, 32)],
    "recover": [
        Case("cifar10", "resnet18", 32, 100),
        Case("imagenette", "resnet18", 224, 100),
        Case("tiny-imagenet", "resnet18", 224, 100, classes=100),
    ],
}
SMALL = {
    "teacher": [Case("cifar10", "convnet", 32, 64), Case("imagenette", "resnet18", 224, 8)],
    "recover": [Case("cifar10", "convnet", 32, 100), Case("imagenette", "resnet18", 64, 40)],
}


def row_of(stage, case, ours, plain, count, operations, rate, **more):
    """What a bench reports of one case: `ours` and `plain` as of measure.alternating, for `count` images
    each.
    """
    row = {
        "stage": stage,
        "case": str(case),
        "seconds": ours["seconds"],
        "images per second": count / ours["seconds"],
        "peak bytes": ours["peak bytes"],
        "naive seconds": plain["seconds"],
        "naive peak bytes": plain["peak bytes"],
        "times as fast as naive": plain["seconds"] / ours["seconds"],
        **more,
    }
    if operations:
        row |= {
            "TFLOP/s": operations / ours["seconds"] / 1e12,
            "share of product rate": operations / ours["seconds"] / rate,
        }
    return row


EVERY = 4  # the steps of --curvature-every that are timed


def _teacher_loss(base, model, pixels, labels, regularizer, every, step):
    settings = dataclasses.replace(
        base,
        curvature=bool(regularizer),
        regularizer=regularizer or "loss",
        loss_beta=1.0,
        curvature_every=every,
    )
    return teacher.teacher_loss(
        settings, model, pixels, labels, batch_size=len(labels), step=step, draws=None
    )[0]


def bench_teacher(cases, conditions, rate):
    """A training step, without and with each of the two published regularizers; `plain steps` is the
    cost in steps without one.
    """
    names, device = (None, "gradient-norm", "loss"), conditions.device
    for case in cases:
        model, (pixels, labels) = case.build(device, conditions.channels_last).train(), case.data(device)
        optimizer, settings = torch.optim.SGD(model.parameters(), 1e-6), recipe(case.dataset).pretrain
        steps = {}
        for name in names:
            ours = functools.partial(_teacher_loss, settings, model, pixels, labels, name, 1, 0)
            theirs = functools.partial(
                reference.teacher_loss, model.network, model.normalize(pixels), labels, name, 1.0, 3.0
            )
            steps["ours", name], steps["naive", name] = (
                units.optimizing(optimizer, [loss], conditions.precision, device) for loss in (ours, theirs)
            )
        counted = {name: measure.operations(steps["ours", name]) for name in names}
        several = [
            functools.partial(_teacher_loss, settings, model, pixels, labels, "gradient-norm", EVERY, number)
            for number in range(EVERY)
        ]
        steps["every"] = units.optimizing(optimizer, several, conditions.precision, device)
        found = measure.alternating(steps, conditions.repeats, device, memory=True)
        plain = found["ours", None]["seconds"]
        for name in names:
            yield row_of(
                f"teacher, {name or 'no regularizer'}",
                case,
                found["ours", name],
                found["naive", name],
                case.batch,
                counted[name],
                rate,
                **{
                    "plain steps": found["ours", name]["seconds"] / plain,
                    "naive plain steps": found["naive", name]["seconds"] / plain,
                },
            )
        seconds = found["every"]["seconds"] / EVERY
        yield {
            "stage": f"teacher, gradient-norm at each {EVERY}th step",
            "case": str(case),
            "seconds": seconds,
            "images per second": case.batch / seconds,
            "plain steps": seconds / plain,
        }


def _plan(problem, settings, size, device):
    """(labels, noise, views) of a problem, as guard.bench.reference takes them."""
    views, rolls = sre2l.draw_views(settings, problem, 0, size)
    whole = not (settings.crop or settings.cda)
    draws = generator(*problem.key(0), "noise")
    noise = torch.randn(len(problem.classes), 3, size, size, generator=draws).to(device)
    of_iterations = zip(views.boxes.tolist(), views.flips, rolls.tolist())
    each = [(None if whole else tuple(box), bool(flip), tuple(roll)) for box, flip, roll in of_iterations]
    return torch.tensor(problem.classes), noise, each


def bench_recover(cases, conditions, rate):
    """Some iterations on `batch` images, all problems together, against one problem after the other with
    gradients of the weights.
    """
    device = conditions.device
    iterations = units.iterations(device, few=3)
    for case in cases:
        model = case.build(device, conditions.channels_last).eval()
        settings = dataclasses.replace(
            recipe(case.dataset).recover, iterations=iterations, precision=conditions.precision
        )
        problems = sre2l.problems_of(case.classes, case.batch // case.classes, 100)
        fitting = memory.images_that_fit(model, case.size, device, MOST_IMAGES)
        packs = sre2l.packs_of(problems, fitting)
        mean, std = model.mean.flatten(), model.std.flatten()
        plans = [_plan(problem, settings, case.size, device) for problem in problems]

        def ours(model=model, settings=settings, packs=packs):
            for pack in packs:
                sre2l.recover_pack(settings, model, pack, 0, device)

        # A counter does not see what is replayed.
        alone = functools.partial(ours, settings=dataclasses.replace(settings, iterations=1, graphs="off"))

        def theirs(model=model, settings=settings, plans=plans, mean=mean, std=std):
            with computing(conditions.precision, device):
                for labels, noise, views in plans:
                    reference.recover(
                        model.network, labels, noise, views, mean, std, settings.r_bn, settings.step_size
                    )

        counted = iterations * measure.operations(alone)
        found = measure.alternating({"ours": ours, "naive": theirs}, conditions.repeats, device, memory=True)
        yield row_of(
            f"recover, {case.classes} classes",
            case,
            found["ours"],
            found["naive"],
            case.batch * iterations,
            counted,
            rate,
            **{
                "images together": len(packs[0]) * case.classes,
                "seconds per iteration": found["ours"]["seconds"] / iterations,
            },
        )


class _NoNetwork(nn.Module):
    """Stands for a teacher whose passes take no time."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, pixels):
        return pixels.new_zeros(len(pixels), self.classes)


def _folder(root, split, count, sizes, suffix):
    """ROOT/bench/SPLIT/{0..9}/*.suffix: `count` smooth random images."""
    draws = numpy.random.default_rng(0)
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        path = Path(root) / "bench" / split / str(number % 10) / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draws.integers(0, 256, (height // 8, width // 8, 3), dtype=numpy.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)


def _without_network(stage, repeats, device, size, count):
    """Epochs of labels of `count` distilled images, network apart: `stage` relabel makes and stores
    them, student reads and looks.
    """
    workers = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as root:
        _folder(root, "train", count, [(size, size)], "png")
        source = find.scan("bench", Path(root) / "bench" / "train", "train")
        held = image_folder.load_distilled(source.path).to(device)
        settings = soft_labels.label_recipe(recipe("imagenette").relabel, held, 0)
        store, network = label_store.LabelStore(Path(root) / "labels"), _NoNetwork(10).to(device)
        work = Stage("relabel", store.folder)
        work.finished_or_begin(store.ledger, store.key(settings, "", "", held.classes), store.parts(1))

        def relabel():
            store.write(0, soft_labels.make_epoch(network, held, settings, 0), settings, held)

        def student():
            for batch in soft_labels.batches_of(store.read(0, settings, held), settings.batch_size):
                soft_labels.look(held, batch)
                torch.from_numpy(batch["logits"].astype("float32")).to(device)

        def theirs():
            for number, (pixels, _) in enumerate(
                reference.mixed_batches(source.files, source.labels, size, settings.batch_size, workers)
            ):
                path = Path(root) / f"batch_{number}.pt"
                if stage == "relabel":
                    torch.save({"logits": network(pixels.to(device)).half()}, path)
                else:
                    torch.load(path)["logits"].float().to(device)
                    pixels.to(device)

        relabel()
        torch.save({"logits": torch.zeros(count, 10).half()}, Path(root) / "batch_0.pt")
        found = measure.alternating(
            {"ours": relabel if stage == "relabel" else student, "naive": theirs},
            repeats,
            device,
            memory=True,
        )
    return row_of(
        f"{stage}, without the network",
        f"{count} images at {size}",
        found["ours"],
        found["naive"],
        count,
        0,
        0,
        **{"naive workers": workers},
    )


def bench_data(repeats, device, size=224, count=256):
    """An epoch of the teacher's batches, from JPEGs of about 500x375: from the pixel cache, and decoded
    by workers.
    """
    workers = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as root, pixel_cache.kept_in(root):
        _folder(root, "train", count, [(375, 500), (500, 375), (480, 480), (333, 500)], "jpg")
        source = find.find("bench", root, "train")
        pixels, sizes = pixel_cache.cached(source.files, ("bench", "train", root, 0, None))
        held = images.Mapped(pixels, sizes, torch.tensor(source.labels), source.classes).to(device)

        def ours():
            epoch = loading.TrainingEpoch(
                held, augmentation="resized-crop", batch_size=32, size=size, seed=0, epoch=0
            )
            for _ in loading.batches(epoch, 0, device):
                pass

        def theirs():
            views = reference.LabelledViews(source.files, source.labels, size)
            for batch, _ in torch.utils.data.DataLoader(views, 32, shuffle=True, num_workers=workers):
                batch.to(device)

        found = measure.alternating({"ours": ours, "naive": theirs}, repeats, device, memory=True)
    yield row_of(
        "data",
        f"{count} JPEGs of about 500x375 to {size}",
        found["ours"],
        found["naive"],
        count,
        0,
        0,
        **{"naive workers": workers},
    )


def run(stages, conditions):
    """Yields the rows of the named stages."""
    device, cases = conditions.device, PAPER if conditions.scale == "paper" else SMALL
    rate = measure.product_rate(device, conditions.precision)
    yield {"stage": "matrix product", "case": conditions.precision, "TFLOP/s": rate / 1e12}
    for stage in stages:
        if stage == "teacher":
            yield from bench_teacher(cases["teacher"], conditions, rate)
        elif stage == "recover":
            yield from bench_recover(cases["recover"], conditions, rate)
        elif stage in ("relabel", "student"):
            yield _without_network(stage, conditions.repeats, device, 224, 100)
        else:
            yield from bench_data(conditions.repeats, device)

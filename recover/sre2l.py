"""Image method sre2l: images that a teacher finds typical, from its weights and running statistics alone.

SRe2L (Yin et al., NeurIPS 2023), with CDA's curriculum of crops (Yin and Shen, TMLR 2024) where asked for.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from guard.data.augment import Sampler, Views, resampled, resized_crops
from guard.method import schedules
from guard.method.batch_statistics import BatchStatistics
from guard.networks import memory, models
from guard.run import devices, graphs, seeds
from recover.recovery import Made, Part, Plan
from recover.start import Start

TERMS = ("cross-entropy", "batch-norm loss")  # of the objective
AHEAD = 16  # iterations whose views are made ready together
AHEAD_ENTRIES = 2**24  # numbers that their matrices may have

# ---- problems ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One mini-batch of SRe2L: the `number`-th image of each of these classes.

    Its images are optimized together, since the batch-norm loss compares mean and variance of the mini-batch
    with the teacher's running statistics. Different problems share nothing; a *pack* of problems goes through
    the network in one forward pass, for speed alone.
    """

    number: int
    classes: tuple

    def key(self, seed):
        """What its random draws depend on, however the problems are packed."""
        return (seed, "recover", self.number, self.classes[0])


def problems_of(classes, images_per_class, classes_per_problem):
    """All problems: for each image number, one for each group of up to `classes_per_problem` classes."""
    groups = []
    for start in range(0, classes, classes_per_problem):
        groups.append(tuple(range(start, min(start + classes_per_problem, classes))))
    return [Problem(number, group) for number in range(images_per_class) for group in groups]


def packs_of(problems, pack_images):
    """Lists of problems that are optimized together.

    A pack has problems of equal size that follow each other: as many as have at most `pack_images`
    images, but at least one. It depends on the settings alone, so rounding is the same for any number of
    processes.
    """
    packs = []
    for problem in problems:
        last = packs[-1] if packs else []
        size = len(problem.classes)
        if last and len(last[0].classes) == size and (len(last) + 1) * size <= pack_images:
            last.append(problem)
        else:
            packs.append([problem])
    return packs


def plan(request):
    """The recover.recovery.Plan: a part for each pack of problems."""
    settings = request.settings
    problems = problems_of(len(request.classes), settings.images_per_class, settings.classes_per_problem)
    start = None if settings.start == "noise" else Start(request)
    parts, fitting = [], {}
    for pack in packs_of(problems, settings.pack_images):
        parts.append(Part(_images_of(pack), functools.partial(_make, request, pack, start, fitting)))
    return Plan(parts, columns=TERMS, steps=settings.iterations)


def _images_of(pack):
    """(label, number within its class) of each image of a pack, in order."""
    return [(label, problem.number) for problem in pack for label in problem.classes]


def _make(request, pack, start, fitting, progress):
    """A pack's images; where memory runs out, in halves, and the packs after it as well.

    start: the Start, or None for noise. fitting: a dict whose 'problems' is how many went through together in
    the pack before.
    """
    settings, seed, device = request.settings, request.seed, request.device

    def in_parts(count):
        made = []
        for first in range(0, len(pack), count):
            part = pack[first : first + count]
            images = start.images(_images_of(part)) if start else None
            made.append(recover_pack(settings, request.model, part, seed, device, progress, start=images))
        fitting["problems"] = count
        pixels, losses = zip(*made)
        return torch.cat(pixels), torch.cat(losses)

    together = min(len(pack), fitting.get("problems", len(pack)))
    pixels, losses = memory.halved_when_full(in_parts, together, "problems")
    looked_at = start.looked_at(_images_of(pack)) if start else []
    return Made(pixels.flatten(0, 1), losses.tolist(), looked_at)


# ---- views ---------------------------------------------------------------------------------------


def crop_scale_at(iteration, iterations, *, schedule, milestone, lowest):
    """The least share of the area that a crop keeps, by CDA's curriculum (Yin and Shen 2024, section 3.2).

    It falls from 1 to `lowest` along `schedule` during the first `milestone` share of the iterations, and is
    `lowest` afterwards. Schedule 'step' jumps at the milestone.
    """
    progress = iteration / (milestone * iterations)
    if progress >= 1:
        return lowest
    fallen = {"cosine": 0.5 * (1 - math.cos(math.pi * progress)), "linear": progress, "step": 0.0}[schedule]
    return 1 - (1 - lowest) * fallen


def draw_views(settings, problem, seed, size):
    """The views of one problem in all T iterations: (Views of T boxes and flips, rolls (T, 2) in pixels).

    In an iteration all of a problem's images, of side `size`, are seen in the same view, as in SRe2L's code,
    which crops the tensor of the mini-batch.
    """
    draws = seeds.generator(*problem.key(seed), "views")
    count = settings.iterations
    sides = torch.full((count,), size)
    rolls = torch.randint(settings.roll + 1, (count, 2), generator=draws)
    if not (settings.crop or settings.cda):
        whole = torch.tensor([[0, 0, size, size]]).expand(count, 4)
        return Views(whole, torch.zeros(count, dtype=torch.bool)), rolls
    smallest = settings.crop_scale
    if settings.cda:
        curriculum = {
            "schedule": settings.cda_schedule,
            "milestone": settings.cda_milestone,
            "lowest": settings.crop_scale,
        }
        scales = [crop_scale_at(iteration, count, **curriculum) for iteration in range(count)]
        smallest = torch.tensor(scales, dtype=torch.float64)
    boxes = resized_crops(draws, sides, sides, smallest)
    return Views(boxes, torch.rand(count, generator=draws) < (0.5 if settings.flip else 0.0)), rolls


# ---- loss ----------------------------------------------------------------------------------------


class Objective:
    """The terms of CE(f(view(x)), y) + r_bn * (batch-norm loss) of a pack (Yin et al. 2023, eq. 4 to 6).

    Of each term, TERMS, there is one number for each of the P problems. weights: 1 and r_bn, as (P,) each, by
    which autograd adds the terms' gradients up. x: normalized images (P * C, 3, S, S), the C images of a
    problem after those of the problem before.
    """

    def __init__(self, settings, network, pack, seed, size, device, dtype):
        self.network, self.size, self.dtype = network, size, dtype
        self.problems, self.classes = len(pack), len(pack[0].classes)
        labels = [label for problem in pack for label in problem.classes]
        self.labels = torch.tensor(labels, device=device)
        self.statistics = BatchStatistics(network, self.problems, settings.first_layer_weight)
        weights = torch.tensor([1.0, settings.r_bn], device=device, dtype=dtype)
        self.weights = weights.view(-1, 1).expand(-1, self.problems).unbind()
        drawn = [draw_views(settings, problem, seed, size) for problem in pack]
        # Of iteration t: boxes[t] (P, 4), flips[t] (P,), rolls[t] (P, 2).
        self.boxes = torch.stack([views.boxes for views, _ in drawn], 1)
        self.flips = torch.stack([views.flips for views, _ in drawn], 1)
        self.rolls = torch.stack([rolls for _, rolls in drawn], 1)
        self.ahead = range(0)  # iterations whose views are ready

    def view(self, iteration):
        """The matrices (P, S, S), of rows and of columns, of this iteration's views."""
        if iteration not in self.ahead:
            self._look_ahead(iteration, self.labels.device)
        place = iteration - self.ahead.start
        return self.rows[place], self.columns[place]

    def _look_ahead(self, iteration, device):
        """Makes the matrices of the views from this iteration on, of as many as are in `ahead` then.

        Each takes many small operations, which for several iterations are no more.
        """
        size, count = self.size, max(1, min(AHEAD, AHEAD_ENTRIES // (2 * self.problems * self.size**2)))
        chosen = slice(iteration, iteration + count)
        boxes, flips, rolls = (each[chosen].flatten(0, 1) for each in (self.boxes, self.flips, self.rolls))
        sampler = Sampler(Views(boxes, flips), (size, size), size, rolls=rolls, dtype=self.dtype)
        # Of the iteration at place k: rows[k] and columns[k], both (P, size, size).
        self.rows, self.columns = (
            each.unflatten(0, (-1, self.problems)) for each in sampler.matrices(device)
        )
        self.ahead = range(iteration, iteration + len(self.rows))

    def __call__(self, x, rows, columns):
        """(cross-entropy, batch-norm loss), each (P,), not weighted, to be differentiated by x.

        rows, columns: of `view`, each problem's own crop, flip and roll.
        """
        self.statistics.begin()
        # A problem's images share a view, so to the sampler they are the channels of one image.
        as_channels = x.view(self.problems, 3 * self.classes, self.size, self.size)
        seen = resampled(as_channels, rows, columns).view_as(x)
        logits = devices.widened(self.network(seen))
        each = F.cross_entropy(logits, self.labels, reduction="none")
        return each.view(self.problems, self.classes).mean(1), self.statistics.loss()


# ---- loop ----------------------------------------------------------------------------------------


def recover_pack(settings, model, pack, seed, device, progress=None, start=None):
    """Optimizes the P problems of a pack, of C classes each, together.

    start: what the images start from, (P * C, 3, S, S) in [0,1], or None for noise. model: PixelModel in eval
    mode. The images have its dtype, float32 (float64 in tests); settings.precision only switches autocast and
    TF32. Problems share the forward and nothing else. Returns (pixels (P, C, 3, S, S) in [0,1], losses (P,
    2): cross-entropy and batch-norm loss of the last iteration's view, before its step).
    """
    x = _noise(model, pack, seed) if start is None else model.normalize(start.to(model.mean))
    x = x.to(device).requires_grad_()
    lowest = model.normalize(torch.zeros_like(model.mean))
    highest = model.normalize(torch.ones_like(model.mean))
    objective = Objective(settings, model.network, pack, seed, model.image_size, device, model.mean.dtype)
    betas = settings.beta1, settings.beta2
    optimizer = torch.optim.Adam([x], settings.step_size, betas=betas, eps=1e-8)

    def body(rows, columns):
        with devices.computing(settings.precision, device):
            losses = objective(x, rows, columns)
            (x.grad,) = torch.autograd.grad(losses, x, objective.weights)
        optimizer.step()
        with torch.no_grad():  # pixels stay within [0,1]
            x.clamp_(lowest, highest)
        return [each.detach() for each in losses]

    step = graphs.Step(body, graphs.captures(settings.graphs, device), "an iteration of the recovery")
    graphs.prepare(optimizer, step.captured, device)
    with models.frozen_eval(model), objective.statistics:
        for iteration in range(settings.iterations):
            factor = schedules.cosine(iteration, settings.iterations)
            schedules.set_learning_rate(optimizer, settings.step_size * factor)
            entropy, distance = step(*objective.view(iteration))
            if progress:
                progress.step(cross_entropy=entropy, batch_norm=distance)
    pixels = model.denormalize(x.detach()).clamp(0, 1)
    shape = objective.problems, objective.classes
    return pixels.view(*shape, *x.shape[1:]), torch.stack([entropy, distance], 1)


def _noise(model, pack, seed):
    """What the images of a pack start from: N(0, 1), (P * C, 3, S, S)."""
    size, dtype = model.image_size, model.mean.dtype
    parts = []
    for problem in pack:
        draws = seeds.generator(*problem.key(seed), "noise")
        parts.append(torch.randn(len(problem.classes), 3, size, size, generator=draws, dtype=dtype))
    return torch.cat(parts)

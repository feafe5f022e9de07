"""SRe2L."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from guard.data.augment import Sampler, Views, resized_crops
from guard.method import schedules
from guard.method.batch_statistics import BatchStatistics
from guard.networks import models
from guard.run import devices, seeds

MOST_IMAGES = 500  # that go through the teacher together; a GPU is busy long before


@dataclass(frozen=True)
class Problem:
    """One optimization problem: the `number`-th image of each of these classes. Nothing passes between
    problems.
    """

    number: int
    classes: tuple

    def key(self, seed):
        """What its random draws depend on, however the problems are packed."""
        return (seed, "recover", self.number, self.classes[0])


def problems_of(classes, images_per_class, classes_per_problem):
    """All problems: for each image number, one per group of up to `classes_per_problem` classes."""
    groups = [
        tuple(range(start, min(start + classes_per_problem, classes)))
        for start in range(0, classes, classes_per_problem)
    ]
    return [Problem(number, group) for number in range(images_per_class) for group in groups]


def packs_of(problems, pack_images):
    """Problems that are optimized together: runs of equal size, as many as have at most `pack_images`
    images, at least one.

    A function of the recipe alone, so float32 rounding, too, is the same for any number of processes.
    """
    packs = []
    for problem in problems:
        room = (
            packs
            and len(packs[-1][0].classes) == len(problem.classes)
            and (len(packs[-1]) + 1) * len(problem.classes) <= pack_images
        )
        if room:
            packs[-1].append(problem)
        else:
            packs.append([problem])
    return packs


def crop_scale_at(iteration, iterations, *, schedule, milestone, lowest):
    """CDA's least share of the area that a crop keeps: from 1 to `lowest` along `schedule` during the
    first `milestone` share of the iterations, `lowest` afterwards (Yin and Shen 2024, section 3.2);
    'step' jumps at the milestone.
    """
    progress = iteration / (milestone * iterations)
    if progress >= 1:
        return lowest
    fallen = {"cosine": 0.5 * (1 - math.cos(math.pi * progress)), "linear": progress, "step": 0.0}[schedule]
    return 1 - (1 - lowest) * fallen


def draw_views(settings, problem, seed, size):
    """All views of one problem: boxes (T, 4), flips (T,), rolls (T, 2), T the iterations; each shared by
    the problem's images.
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
        schedule, milestone, lowest = settings.cda_schedule, settings.cda_milestone, settings.crop_scale
        smallest = torch.tensor(
            [
                crop_scale_at(t, count, schedule=schedule, milestone=milestone, lowest=lowest)
                for t in range(count)
            ],
            dtype=torch.float64,
        )
    boxes = resized_crops(draws, sides, sides, smallest)
    return Views(boxes, torch.rand(count, generator=draws) < 0.5), rolls


class Objective:
    """CE(f(view(x)), y) + r_bn * (batch-norm loss), one number per problem of a pack, for images x (P *
    C, 3, S, S), problem after problem. SRe2L (Yin et al. 2023), equations 4 to 6.
    """

    def __init__(self, settings, network, pack, seed, size, where, dtype):
        self.network, self.size, self.r_bn = network, size, settings.r_bn
        self.labels = torch.tensor([label for problem in pack for label in problem.classes], device=where)
        self.views = [draw_views(settings, problem, seed, size) for problem in pack]
        self.statistics = BatchStatistics(network, len(pack), settings.first_layer_weight)
        self.shape = (len(pack), len(pack[0].classes))
        self.where, self.dtype = where, dtype

    def view(self, x, iteration):
        """What the network sees of x in this iteration: each problem's own crop, flip and roll."""
        boxes, flips, rolls = (
            torch.stack(each)
            for each in zip(*((v.boxes[iteration], v.flips[iteration], r[iteration]) for v, r in self.views))
        )
        sampler = Sampler(
            Views(boxes, flips),
            (self.size, self.size),
            self.size,
            rolls=rolls,
            device=self.where,
            dtype=self.dtype,
        )
        problems = x.view(
            self.shape[0], -1, self.size, self.size
        )  # the images of a problem are as many channels of one
        return sampler(problems).view_as(x)

    def __call__(self, x, iteration):
        """(cross-entropy, batch-norm loss), each (problems,)."""
        logits = devices.widened(self.network(self.view(x, iteration)))
        entropy = F.cross_entropy(logits, self.labels, reduction="none").view(self.shape).mean(1)
        return entropy, self.statistics.loss()


def recover_pack(settings, model, pack, seed, where, progress=None):
    """Optimizes the problems of one pack together; returns (pixels in [0,1], (P, C, 3, S, S); final
    losses of each problem (P, 2)).

    model: PixelModel in eval mode; its dtype is the precision. Problems share the forward and nothing
    else.
    """
    dtype, size = model.mean.dtype, model.image_size
    noise = [
        torch.randn(
            len(p.classes), 3, size, size, generator=seeds.generator(*p.key(seed), "noise"), dtype=dtype
        )
        for p in pack
    ]
    x = torch.cat(noise).to(where).requires_grad_()
    lowest, highest = (
        model.normalize(torch.zeros_like(model.mean)),
        model.normalize(torch.ones_like(model.mean)),
    )
    objective = Objective(settings, model.network, pack, seed, size, where, dtype)
    optimizer = torch.optim.Adam([x], settings.step_size, betas=(settings.beta1, settings.beta2), eps=1e-8)
    with models.frozen_eval(model), objective.statistics, devices.computing(settings.precision, where):
        for iteration in range(settings.iterations):
            schedules.set_learning_rate(
                optimizer, settings.step_size * schedules.cosine(iteration, settings.iterations)
            )
            entropy, distance = objective(x, iteration)
            (x.grad,) = torch.autograd.grad((entropy + settings.r_bn * distance).sum(), x)
            optimizer.step()
            with torch.no_grad():
                x.copy_(x.maximum(lowest).minimum(highest))
            if progress:
                progress.step(cross_entropy=entropy.detach().mean(), batch_norm=distance.detach().mean())
    pixels = model.denormalize(x.detach()).clamp(0, 1)
    return pixels.view(*objective.shape, *x.shape[1:]), torch.stack([entropy, distance], 1).detach()


def _recover_in_parts(settings, model, pack, seed, where, progress, count):
    """recover_pack for `count` problems of the pack at a time."""
    parts = [
        recover_pack(settings, model, pack[start : start + count], seed, where, progress)
        for start in range(0, len(pack), count)
    ]
    return tuple(torch.cat(each) for each in zip(*parts))

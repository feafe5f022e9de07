"""Auto-PGD (Croce and Hein, ICML 2020, algorithm 1).

PGD with momentum, whose step size adapts to each image's progress.
"""

import functools

import torch
import torch.nn.functional as F

from guard.attacks.ball import bounds, uniform_noise
from guard.attacks.slots import Slots, no_steps, none_broken, note_broken, per_image

MOMENTUM = 0.75  # weight of the new step in x_{k+1} = x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1})
# rho: the step is halved where no more than this share of the steps since the last look raised the loss
PROGRESS = 0.75


def cross_entropy(logits, labels, targets):
    """(N,) cross-entropy of each image."""
    del targets  # as it aims at no class
    return F.cross_entropy(logits, labels, reduction="none")


def targeted_dlr(logits, labels, targets):
    """(N,) targeted difference-of-logits ratio of each image: -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2).

    z_1 >= z_2 >= ... are the sorted logits, y is the label and t the target. With fewer than four classes, of
    which the published formula says nothing, it is -(z_y - z_t): a ratio of the differences of two or three
    logits is constant for some target as long as the image is classified correctly, and has no gradient.
    """
    own = logits.gather(1, labels.view(-1, 1)).squeeze(1)
    target = logits.gather(1, targets.view(-1, 1)).squeeze(1)
    if logits.shape[1] < 4:
        return -(own - target)
    ordered = logits.sort(dim=1, descending=True).values
    return -(own - target) / (ordered[:, 0] - 0.5 * (ordered[:, 2] + ordered[:, 3]) + 1e-12)


def looks(steps):
    """When the step size is looked at: (steps + 1,) int64, for each number of steps done.

    Where it is looked at, the entry is the number of steps since the last look, else 0. The first interval is
    22 % of the steps, each next one 3 % shorter, but at least 6 %.
    """
    interval = max(int(0.22 * steps), 1)
    shortest = max(int(0.06 * steps), 1)
    shorter = max(int(0.03 * steps), 1)
    table = torch.zeros(steps + 1, dtype=torch.int64)
    at = interval
    while at <= steps:
        table[at] = interval
        interval = max(interval - shorter, shortest)
        at += interval
    return table


def auto_pgd(
    model, images, labels, *, epsilon, draws, batch_size, steps, loss=cross_entropy, targets=None, part=""
):
    """`steps` steps up `loss`, within epsilon (L-inf) and [0,1], from a random start; (adversarial, broken).

    targets: (N,) classes for a targeted loss. part: told to `draws`, so that several runs start differently.

    An image is broken by its first misclassified iterate and left alone from then on. The forward pass that
    judges an iterate is the one that its gradient is taken of.
    """
    adversarial, broken = images.clone(), none_broken(images)
    lowest, highest = bounds(images, epsilon)
    intervals = looks(steps).to(images.device)

    def draw(position):
        return draws(position, part)

    def start(entering):
        x = _random_start(images[entering], entering, epsilon, draw)
        return _fresh_state(x, lowest[entering], highest[entering], epsilon)

    slots = Slots(len(images), batch_size, start, images.device)
    while slots.refill():
        index, state = slots.index, slots.state
        x = state["x"].detach().requires_grad_()  # other entries may be the same tensor
        logits = model(x)
        losses = loss(logits, labels[index], None if targets is None else targets[index])
        fooled = logits.argmax(1) != labels[index]
        finished = fooled | (state["done"] == steps)
        (gradient,) = torch.autograd.grad(losses.sum(), x)
        state["x"] = x = x.detach()
        _keep_best(state, losses.detach(), gradient)
        direction = _adapt_step(state, gradient, intervals)
        _move(state, direction)
        gone = slots.leave(finished)
        if len(gone):
            note_broken(adversarial, broken, index[gone], x[gone], fooled[gone])
    return adversarial, broken


def _random_start(x, positions, epsilon, draw):
    """A random place on the border of each image's ball, (k, 3, H, W) in [0,1]."""
    noise = uniform_noise(x, positions, draw)
    return (x + epsilon * noise / noise.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1)


def _fresh_state(x, low, high, epsilon):
    """What is known of images that start at x (k, 3, H, W); one row per image."""
    worst = x.new_full((len(x),), -torch.inf)
    return {
        "x": x,
        "before": x,  # the iterate before x
        "low": low,
        "high": high,
        "step": x.new_full((len(x), 1, 1, 1), 2 * epsilon),
        "done": no_steps(x),
        "loss": worst,
        # of the iterate with the largest loss so far
        "best": x,
        "best_gradient": torch.zeros_like(x),
        "best_loss": worst,
        # since the last look at the step size
        "rises": no_steps(x),  # steps that raised the loss
        "looked": worst,  # the best loss at that look
        "halved": torch.ones(len(x), dtype=torch.bool, device=x.device),  # whether it halved the step
    }


def _keep_best(state, losses, gradient):
    """Counts the steps that raised the loss, and keeps the iterate with the largest loss.

    losses: (k,) at state["x"]. gradient: (k, 3, H, W) there.
    """
    started = state["done"] > 0
    state["rises"] += started & (losses > state["loss"])
    state["loss"] = losses
    better = losses > state["best_loss"]
    state["best"] = torch.where(per_image(better), state["x"], state["best"])
    state["best_gradient"] = torch.where(per_image(better), gradient, state["best_gradient"])
    state["best_loss"] = torch.where(better, losses, state["best_loss"])


def _adapt_step(state, gradient, intervals):
    """Halves the step of the images that make no progress and takes them back to their best iterate.

    This happens only at a look (see `looks`), where the loss rose too seldom, or where the best loss has not
    changed since a look that did not halve the step. gradient: (k, 3, H, W) at state["x"]. Returns the
    direction (k, 3, H, W) of the next step: the sign of the gradient at the iterate that it starts from.
    """
    direction = gradient.sign()
    interval = intervals[state["done"]]
    look = interval > 0
    seldom = state["rises"] <= PROGRESS * interval
    stuck = ~state["halved"] & (state["looked"] >= state["best_loss"])
    halve = look & (seldom | stuck)
    state["halved"] = torch.where(look, halve, state["halved"])
    state["looked"] = torch.where(look, state["best_loss"], state["looked"])
    state["rises"] = torch.where(look, 0, state["rises"])
    state["step"] = torch.where(per_image(halve), state["step"] / 2, state["step"])
    state["x"] = torch.where(per_image(halve), state["best"], state["x"])
    return torch.where(per_image(halve), state["best_gradient"].sign(), direction)


def _move(state, direction):
    """One step along `direction` (k, 3, H, W) with momentum; an image's first step has none."""
    x, low, high = state["x"], state["low"], state["high"]
    momentum = torch.where(per_image(state["done"] > 0), MOMENTUM, 1.0)
    ahead = torch.addcmul(x, state["step"], direction).clamp_(low, high)
    state["x"] = (x + momentum * (ahead - x) + (1 - momentum) * (x - state["before"])).clamp_(low, high)
    state["before"] = x
    state["done"] += 1


# ---- targeted attacks ----------------------------------------------------------------------------


def ranked_targets(model, images, batch_size, count):
    """The classes to aim at, most likely first: (N, min(count, classes - 1)) int64.

    They are ordered by the logits of the clean images, and the most likely class, the image's own, is left
    out.
    """
    with torch.no_grad():
        logits = torch.cat([model(part) for part in images.split(batch_size)])
    count = min(count, logits.shape[1] - 1)
    return logits.argsort(dim=1, descending=True)[:, 1 : 1 + count]


def each_target(attack, model, images, labels, *, targets, draws, **settings):
    """Runs a targeted attack for one target rank after the other; (adversarial, broken).

    Each rank is tried on the images that still stand. targets: the most targets per image; a model with k
    classes has k - 1.
    """
    adversarial, broken = images.clone(), none_broken(images)
    ranked = ranked_targets(model, images, settings["batch_size"], targets)
    for rank in range(ranked.shape[1]):
        standing = (~broken).nonzero().squeeze(1)
        if not len(standing):
            break
        numbers = standing.tolist()

        def draws_of_standing(position, part, numbers=numbers):
            return draws(numbers[position], part)

        found, fell = attack(
            model,
            images[standing],
            labels[standing],
            targets=ranked[standing, rank],
            draws=draws_of_standing,
            part=f"target {rank}",
            **settings,
        )
        adversarial[standing[fell]] = found[fell]
        broken[standing[fell]] = True
    return adversarial, broken


def targeted_auto_pgd(model, images, labels, **settings):
    """APGD on the targeted DLR loss, for each of the `targets` most likely other classes in turn."""
    attack = functools.partial(auto_pgd, loss=targeted_dlr)
    return each_target(attack, model, images, labels, **settings)

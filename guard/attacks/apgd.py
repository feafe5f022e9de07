"""Auto-PGD (Croce and Hein, ICML 2020, algorithm 1): PGD with momentum whose step size adapts to each
image's progress.
"""

import functools

import torch
import torch.nn.functional as F

from guard.attacks.slots import Slots

MOMENTUM = 0.75  # weight of the new step in x_{k+1} = x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1})
# rho: the step is halved where fewer than this share of the steps since the last look raised the loss
PROGRESS = 0.75


def cross_entropy(logits, labels, targets):
    return F.cross_entropy(logits, labels, reduction="none")


def targeted_dlr(logits, labels, targets):
    """Targeted difference-of-logits ratio: -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2), z_1 >= z_2 >= ... the
    sorted logits.

    With three classes z_4 is taken for z_3, and with two z_1 - z_2 is the denominator, which the
    published formula leaves open.
    """
    ordered = logits.sort(dim=1, descending=True).values
    third, fourth = ordered[:, min(2, ordered.shape[1] - 1)], ordered[:, min(3, ordered.shape[1] - 1)]
    own, target = (logits.gather(1, each.view(-1, 1)).squeeze(1) for each in (labels, targets))
    return -(own - target) / (ordered[:, 0] - 0.5 * (third + fourth) + 1e-12)


def looks(steps):
    """(steps + 1,) int64: at the iterations at which the step size is looked at, the number of
    iterations since the last look, else 0.

    The first interval is 22 % of the steps, each next one 3 % shorter, but at least 6 %.
    """
    interval, shortest, shorter = (
        max(int(0.22 * steps), 1),
        max(int(0.06 * steps), 1),
        max(int(0.03 * steps), 1),
    )
    table, at = torch.zeros(steps + 1, dtype=torch.int64), 0
    while at + interval <= steps:
        at += interval
        table[at] = interval
        interval = max(interval - shorter, shortest)
    return table


def auto_pgd(
    model, images, labels, *, epsilon, draws, batch_size, steps, loss=cross_entropy, targets=None, part=""
):
    """`steps` steps of APGD on `loss`, within epsilon (L-inf) and [0,1], from a random start;
    (adversarial, broken).

    targets: (N,) classes for a targeted loss. part: told to `draws`, so that several runs start
    differently. An image is broken by its first misclassified iterate and left alone from then on; the
    forward that judges an iterate is the one its gradient is taken of.
    """
    adversarial, broken = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    intervals = looks(steps).to(images.device)

    def start(entering):
        x = images[entering]
        noise = torch.stack(
            [
                2 * torch.rand(x.shape[1:], generator=draws(i, part), dtype=x.dtype) - 1
                for i in entering.tolist()
            ]
        ).to(x.device)
        x = (x + epsilon * noise / noise.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1)
        fresh = x.new_full((len(x),), -torch.inf)
        return {
            "x": x,
            "before": x,
            "best": x,
            "low": low[entering],
            "high": high[entering],
            "gradient": torch.zeros_like(x),
            "done": torch.zeros(len(x), dtype=torch.int64, device=x.device),
            "step": x.new_full((len(x), 1, 1, 1), 2 * epsilon),
            "loss": fresh,
            "best_loss": fresh,
            "looked": fresh,
            "rises": torch.zeros(len(x), dtype=torch.int64, device=x.device),
            "halved": torch.ones(len(x), dtype=torch.bool, device=x.device),
        }

    slots = Slots(len(images), batch_size, start, images.device)
    while slots.refill():
        index, state = slots.index, slots.state
        x = state["x"].requires_grad_()
        logits = model(x)
        losses = loss(logits, labels[index], None if targets is None else targets[index])
        fooled = logits.argmax(1) != labels[index]
        finished = fooled | (state["done"] == steps)
        (gradient,) = torch.autograd.grad(losses.sum(), x)
        state["x"] = x = x.detach()
        if fooled.any():
            adversarial[index[fooled]], broken[index[fooled]] = x[fooled], True
        _keep_best(state, losses.detach(), gradient)
        _look(state, intervals)
        _step(state)
        slots.leave(finished)
    return adversarial, broken


def _rows(mask):
    return mask.view(-1, 1, 1, 1)


def _keep_best(state, losses, gradient):
    """Notes whether the loss rose, and where it is an image's best so far, the image and its gradient."""
    started = state["done"] > 0
    state["rises"] += started & (losses > state["loss"])
    state["loss"] = losses
    better = losses > state["best_loss"]
    state["best"] = torch.where(_rows(better), state["x"], state["best"])
    state["gradient_here"], state["gradient"] = (
        gradient,
        torch.where(_rows(better), gradient, state["gradient"]),
    )
    state["best_loss"] = torch.where(better, losses, state["best_loss"])
    state["looked"] = torch.where(started, state["looked"], losses)


def _look(state, intervals):
    """At a look: where the loss rose too seldom, or its best has not changed since a look that did not
    halve, halve the step and go back to the best image.
    """
    interval = intervals[state["done"]]
    look = interval > 0
    state["direction"] = state.pop("gradient_here").sign()
    if not look.any():
        return
    seldom = state["rises"] <= PROGRESS * interval
    stuck = ~state["halved"] & (state["looked"] >= state["best_loss"])
    halve = look & (seldom | stuck)
    state["halved"] = torch.where(look, halve, state["halved"])
    state["looked"] = torch.where(look, state["best_loss"], state["looked"])
    state["rises"] = torch.where(look, 0, state["rises"])
    state["step"] = torch.where(_rows(halve), state["step"] / 2, state["step"])
    state["x"] = torch.where(_rows(halve), state["best"], state["x"])
    state["direction"] = torch.where(_rows(halve), state["gradient"].sign(), state["direction"])


def _step(state):
    low, high = state["low"], state["high"]
    x, momentum = state["x"], torch.where(_rows(state["done"] > 0), MOMENTUM, 1.0)
    ahead = torch.addcmul(x, state["step"], state.pop("direction")).clamp_(low, high)
    state["x"] = (x + momentum * (ahead - x) + (1 - momentum) * (x - state["before"])).clamp_(low, high)
    state["before"] = x
    state["done"] += 1


def ranked_targets(model, images, batch_size, count):
    """(N, count') classes by falling logit of the clean image, the first one left out; count' =
    min(count, classes - 1).
    """
    with torch.no_grad():
        logits = torch.cat([model(part) for part in images.split(batch_size)])
    return logits.argsort(dim=1, descending=True)[:, 1 : 1 + min(count, logits.shape[1] - 1)]


def each_target(attack, model, images, labels, *, targets, draws, **settings):
    """Runs a targeted attack for one target rank after the other; (adversarial, broken).

    Each rank is tried on the images that still stand. targets: most targets per image; a model with k
    classes has k - 1.
    """
    adversarial, broken = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    ranked = ranked_targets(model, images, settings["batch_size"], targets)
    for rank in range(ranked.shape[1]):
        standing = (~broken).nonzero().squeeze(1)
        if not len(standing):
            break
        numbers = standing.tolist()

        def drawn(position, part, numbers=numbers):
            return draws(numbers[position], part)

        settings |= {"targets": ranked[standing, rank], "draws": drawn, "part": f"target {rank}"}
        found, fell = attack(model, images[standing], labels[standing], **settings)
        adversarial[standing[fell]], broken[standing[fell]] = found[fell], True
    return adversarial, broken


def targeted_auto_pgd(model, images, labels, **settings):
    """APGD on the targeted DLR loss, for each of the `targets` most likely other classes in turn."""
    attack = functools.partial(auto_pgd, loss=targeted_dlr)
    return each_target(attack, model, images, labels, **settings)

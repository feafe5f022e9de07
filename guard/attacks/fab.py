"""The Fast Adaptive Boundary attack (Croce and Hein, ICML 2020, arXiv:1907.02044), targeted, L-inf:
looks for the nearest misclassified image, and succeeds where it lies within epsilon.
"""

import torch

from guard.attacks.apgd import each_target
from guard.attacks.slots import Slots

LARGEST_BIAS, OVERSHOOT, BACK = 0.1, 1.05, 0.9  # alpha_max, eta and beta of the paper


def project(x, normal, offset, most=50):
    """The smallest change in L-inf that takes x (N, D), inside [0,1], to the hyperplane <normal, x> =
    offset; (N, D).

    Every coordinate moves by the same amount t in its helpful direction, until it meets the border of
    [0,1]; what that brings along the normal is sum_i |normal_i| min(t, room_i). This is increasing,
    concave and piecewise linear in t, so Newton's method from t = 0 never overshoots and is exact once
    it stands on the right piece: no sort. Where the hyperplane does not meet the box, everything moves
    as far as it can.
    """
    distance = offset - (normal * x).sum(1)  # to be made up for
    direction = normal.sign() * distance.sign().unsqueeze(1)
    room = torch.where(direction > 0, 1 - x, torch.where(direction < 0, x, 0.0))
    weight, wanted = normal.abs(), distance.abs().unsqueeze(1)
    t = torch.zeros_like(wanted)
    for _ in range(most):
        slope = (weight * (room > t)).sum(1, keepdim=True)
        missing = wanted - (weight * room.minimum(t)).sum(1, keepdim=True)
        ahead = torch.where(slope > 0, t + missing.clamp(min=0) / torch.where(slope > 0, slope, 1), t)
        if torch.equal(ahead, t):
            break
        t = ahead
    return direction * room.minimum(t)


def fast_adaptive_boundary(model, images, labels, *, targets, epsilon, draws, batch_size, steps, part=""):
    """`steps` iterations towards `targets` (N,), starting from the images themselves; (adversarial,
    broken).

    Each iteration projects the iterate and the original onto the boundary between label and target,
    linearized at the iterate, and moves to a mean of both that is biased towards the original; a
    misclassified iterate that is farther than epsilon moves a tenth of the way back. An image is broken
    by its first misclassified iterate within epsilon.
    """
    del draws, part  # without restarts nothing about it is random
    adversarial, broken = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def start(entering):
        return {
            "x": images[entering],
            "original": images[entering],
            "done": torch.zeros(len(entering), dtype=torch.int64, device=images.device),
        }

    slots = Slots(len(images), batch_size, start, images.device)
    while slots.refill():
        index, state = slots.index, slots.state
        original, own, target = state["original"], labels[index].view(-1, 1), targets[index].view(-1, 1)
        x = state["x"].requires_grad_()
        logits = model(x)
        difference = (logits.gather(1, target) - logits.gather(1, own)).squeeze(1)
        (gradient,) = torch.autograd.grad(difference.sum(), x)
        x = _step(x.detach(), original, difference.detach(), gradient)
        with torch.no_grad():
            fooled = model(x).argmax(1) != labels[index]
        fell = fooled & ((x - original).abs().amax((1, 2, 3)) <= epsilon)
        if fell.any():
            adversarial[index[fell]], broken[index[fell]] = x[fell], True
        # The forward that judges cannot be that of the next step: a misclassified iterate first moves
        # back towards the original.
        state["x"] = torch.where(fooled.view(-1, 1, 1, 1), original + BACK * (x - original), x)
        state["done"] += 1
        slots.leave(fell | (state["done"] == steps))
    return adversarial, broken


def _step(x, original, difference, gradient):
    shape, normal = x.shape, gradient.flatten(1)
    x, original = x.flatten(1), original.flatten(1)
    offset = (normal * x).sum(1) - difference
    here, there = project(x, normal, offset), project(original, normal, offset)
    size_here, size_there = (change.abs().amax(1, keepdim=True).clamp(min=1e-8) for change in (here, there))
    bias = (size_here / (size_here + size_there)).clamp(max=LARGEST_BIAS)
    return (
        ((x + OVERSHOOT * here) * (1 - bias) + (original + OVERSHOOT * there) * bias).clamp(0, 1).view(shape)
    )


def targeted_fab(model, images, labels, **settings):
    """FAB towards each of the `targets` most likely other classes in turn."""
    return each_target(fast_adaptive_boundary, model, images, labels, **settings)

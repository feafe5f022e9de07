"""The Fast Adaptive Boundary attack (Croce and Hein, ICML 2020, arXiv:1907.02044), targeted, in L-inf.

It looks for the nearest misclassified image, and succeeds where that lies within epsilon.
"""

import torch

from guard.attacks.apgd import each_target
from guard.attacks.slots import Slots, no_steps, none_broken, note_broken, per_image

# Of Newton's method. In attacks three suffice; whether they have is not looked at, since a GPU would wait for
# the answer longer than the others take.
STEPS = 10
LARGEST_BIAS, OVERSHOOT, BACK = 0.1, 1.05, 0.9  # alpha_max, eta and beta of the paper


def project(x, normal, offset):
    """The smallest change (L-inf) that takes points x in [0,1] onto the hyperplane <normal, x> = offset.

    x, normal: (N, D). offset: (N,). Returns the change, (N, D), which leaves x + change in [0,1].

    Every coordinate moves by the same amount t in its helpful direction, until it meets the border of
    [0,1]. What that brings along the normal is sum_i |normal_i| min(t, room_i). This is increasing, concave
    and piecewise linear in t, so Newton's method from t = 0 never overshoots, is exact once it stands on the
    right piece, and needs no sort. Where the hyperplane does not meet the box, everything moves as far as it
    can.
    """
    distance = offset - (normal * x).sum(1)
    direction = normal.sign() * distance.sign().unsqueeze(1)
    room_below = torch.where(direction < 0, x, 0.0)
    room = torch.where(direction > 0, 1 - x, room_below)
    weight, wanted = normal.abs(), distance.abs().unsqueeze(1)
    t = torch.zeros_like(wanted)
    for _ in range(STEPS):
        slope = (weight * (room > t)).sum(1, keepdim=True)
        missing = wanted - (weight * room.minimum(t)).sum(1, keepdim=True)
        newton = t + missing.clamp(min=0) / torch.where(slope > 0, slope, 1)
        t = torch.where(slope > 0, newton, t)
    return direction * room.minimum(t)


def fast_adaptive_boundary(model, images, labels, *, targets, epsilon, draws, batch_size, steps, part=""):
    """`steps` iterations towards `targets` (N,), from the images themselves; (adversarial, broken).

    An iteration projects the iterate and the original image onto the boundary between label and target,
    linearized at the iterate, and moves to a mean of both that is biased towards the original. An iterate
    that is misclassified but farther than epsilon moves a tenth of the way back. An image is broken by its
    first misclassified iterate within epsilon.
    """
    del draws, part  # without restarts nothing about it is random
    adversarial, broken = images.clone(), none_broken(images)

    def start(entering):
        return {"x": images[entering], "original": images[entering], "done": no_steps(entering)}

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
        # The forward pass that judges an iterate cannot be that of the next step: a misclassified iterate
        # first moves back towards the original.
        state["x"] = torch.where(per_image(fooled), original + BACK * (x - original), x)
        state["done"] += 1
        gone = slots.leave(fell | (state["done"] == steps))
        if len(gone):
            note_broken(adversarial, broken, index[gone], x[gone], fell[gone])
    return adversarial, broken


def _step(x, original, difference, gradient):
    """The next iterates (k, 3, H, W) in [0,1].

    x, original, gradient: (k, 3, H, W). difference: (k,) z_t - z_y at x, and gradient that of it there.
    """
    shape, normal = x.shape, gradient.flatten(1)
    x, original = x.flatten(1), original.flatten(1)
    # The linearized boundary: difference + <normal, x' - x> = 0.
    offset = (normal * x).sum(1) - difference
    both = project(torch.cat([x, original]), normal.repeat(2, 1), offset.repeat(2))
    change_of_x, change_of_original = both.chunk(2)
    size_of_x, size_of_original = _size(change_of_x), _size(change_of_original)
    bias = (size_of_x / (size_of_x + size_of_original)).clamp(max=LARGEST_BIAS)
    from_x = (x + OVERSHOOT * change_of_x) * (1 - bias)
    from_original = (original + OVERSHOOT * change_of_original) * bias
    return (from_x + from_original).clamp(0, 1).view(shape)


def _size(change):
    """(k, D) -> (k, 1), the L-inf norm of each change, kept away from 0 as it is a denominator."""
    return change.abs().amax(1, keepdim=True).clamp(min=1e-8)


def targeted_fab(model, images, labels, **settings):
    """FAB towards each of the `targets` most likely other classes in turn."""
    return each_target(fast_adaptive_boundary, model, images, labels, **settings)

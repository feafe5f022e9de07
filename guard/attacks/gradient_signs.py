"""Attacks that follow the gradient of the cross-entropy in steps of one size.

FGSM (Goodfellow et al., ICLR 2015), PGD (Madry et al., ICLR 2018) and MIM (Dong et al., CVPR 2018) follow its
sign; PGD in L2 follows the gradient itself.
"""

import torch
import torch.nn.functional as F

from guard.attacks.ball import bounds, uniform_in_unit_ball, uniform_noise
from guard.attacks.slots import Slots, no_steps, none_broken, per_image


def sign_steps(
    model, images, labels, *, epsilon, draws, batch_size, relative_step, steps, random_start=False, decay=None
):
    """`steps` steps of relative_step * epsilon along the sign of the gradient; (adversarial, broken).

    The images stay within epsilon (L-inf) and in [0,1]. random_start: begin uniformly in the ball, with
    draws(position) for the image at that position. decay: of MIM's momentum, to which each image's gradient
    adds, divided by its own L1 norm; None for no momentum.
    """
    lowest, highest = bounds(images, epsilon)

    def start(entering):
        x, low, high = images[entering], lowest[entering], highest[entering]
        if random_start:
            noise = uniform_noise(x, entering, draws)
            x = (x + noise * epsilon).maximum(low).minimum(high)
        state = {"x": x, "low": low, "high": high}
        if decay is not None:
            state["momentum"] = torch.zeros_like(x)
        return state

    def step(index, state, gradient):
        del index
        direction = gradient
        if decay is not None:
            norm = gradient.abs().sum((1, 2, 3), keepdim=True)
            state["momentum"] = decay * state["momentum"] + gradient / _or_one(norm)
            direction = state["momentum"]
        moved = state["x"] + relative_step * epsilon * direction.sign()
        return moved.maximum(state["low"]).minimum(state["high"])

    return _follow(model, images, labels, start, step, steps, batch_size)


def gradient_steps(model, images, labels, *, epsilon, draws, batch_size, relative_step, steps):
    """PGD in L2: `steps` steps of length relative_step * epsilon along the gradient; (adversarial, broken).

    The images stay within epsilon (L2) and in [0,1]. The start is uniform in the ball.
    """

    def project(x, index):
        """The changes of the images shortened to epsilon where they are longer, then valid pixels."""
        change = x - images[index]
        length = _l2_norm(change)
        shrink = epsilon / torch.where(length > epsilon, length, epsilon or 1.0)
        return (images[index] + change * shrink).clamp(0, 1)

    def start(entering):
        x = images[entering]
        return {"x": project(x + epsilon * uniform_in_unit_ball(x, entering, draws), entering)}

    def step(index, state, gradient):
        moved = state["x"] + relative_step * epsilon * gradient / _or_one(_l2_norm(gradient))
        return project(moved, index)

    return _follow(model, images, labels, start, step, steps, batch_size)


def _l2_norm(change):
    """(k, 3, H, W) -> (k, 1, 1, 1), the norm of each image's change."""
    return per_image(change.square().flatten(1).sum(1).sqrt())


def _or_one(norm):
    """What to divide by: the norm, and 1 where it is 0, so that a zero gradient stays zero."""
    return torch.where(norm > 0, norm, 1)


def _follow(model, images, labels, start, step, steps, batch_size):
    """The loop of all attacks of this file; (adversarial, broken).

    start(entering): the state of the images that enter, with their start under "x". step(index, state,
    gradient): their next x.

    An image is broken by its first misclassified iterate, the start included, and left alone from then on.
    The forward pass that judges an iterate is the one that its gradient is taken of.
    """
    adversarial, broken = images.clone(), none_broken(images)

    def enter(entering):
        return {**start(entering), "done": no_steps(entering)}

    slots = Slots(len(images), batch_size, enter, images.device)
    while slots.refill():
        index, state = slots.index, slots.state
        x = state["x"].requires_grad_()
        logits = model(x)
        fooled = logits.argmax(1) != labels[index]
        finished = fooled | (state["done"] == steps)
        loss = F.cross_entropy(logits, labels[index], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        state["x"] = x = x.detach()
        state["x"] = step(index, state, gradient)
        state["done"] += 1
        gone = slots.leave(finished)
        if len(gone):
            adversarial[index[gone]] = x[gone]
            broken[index[gone]] = fooled[gone]
    return adversarial, broken

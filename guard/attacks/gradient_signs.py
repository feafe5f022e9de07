"""Attacks that follow the cross-entropy's gradient in steps of one size: FGSM (Goodfellow et al. 2015),
PGD (Madry et al. 2018), MIM (Dong et al. 2018).
"""

import torch
import torch.nn.functional as F

from guard.attacks.slots import Slots


def sign_steps(
    model, images, labels, *, epsilon, draws, batch_size, relative_step, steps, random_start=False, decay=None
):
    """`steps` steps of relative_step * epsilon along the gradient's sign, within epsilon (L-inf) and
    [0,1]; (adversarial, broken).

    random_start: begin uniformly in the ball, with draws(position) for the image at that position.
    decay: of MIM's momentum, in which each image's gradient is divided by that image's own L1 norm; None
    for none.
    """
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)

    def start(index):
        x = images[index]
        if random_start:
            noise = [
                2 * torch.rand(x.shape[1:], generator=draws(i), dtype=x.dtype) - 1 for i in index.tolist()
            ]
            x = (x + torch.stack(noise).to(x.device) * epsilon).maximum(low[index]).minimum(high[index])
        bounds = {"low": low[index], "high": high[index]}
        return {"x": x, **bounds} if decay is None else {"x": x, "momentum": torch.zeros_like(x), **bounds}

    def step(index, state, gradient):
        if decay is not None:
            length = gradient.abs().sum((1, 2, 3), keepdim=True)
            state["momentum"] = gradient = decay * state["momentum"] + gradient / torch.where(
                length > 0, length, 1
            )
        return (
            (state["x"] + relative_step * epsilon * gradient.sign())
            .maximum(state["low"])
            .minimum(state["high"])
        )

    return _follow(model, images, labels, start, step, steps, batch_size)


def gradient_steps(model, images, labels, *, epsilon, draws, batch_size, relative_step, steps):
    """PGD in L2: `steps` steps of length relative_step * epsilon along the gradient, within epsilon (L2)
    and [0,1], from a start that is uniform in the ball; (adversarial, broken).
    """

    def norm(change):
        return change.square().flatten(1).sum(1).sqrt().view(-1, 1, 1, 1)

    def within(x, index):
        change = x - images[index]
        length = norm(change)
        return (
            images[index] + change * (epsilon / torch.where(length > epsilon, length, epsilon or 1.0))
        ).clamp(0, 1)

    def start(index):
        x, noise = images[index], []
        for i in index.tolist():
            generator = draws(i)
            direction = torch.randn(x.shape[1:], generator=generator, dtype=x.dtype)
            radius = torch.rand((), generator=generator, dtype=x.dtype) ** (1 / direction.numel())
            noise.append(direction / direction.norm() * radius)
        return {"x": within(x + epsilon * torch.stack(noise).to(x.device), index)}

    def step(index, state, gradient):
        length = norm(gradient)
        return within(
            state["x"] + relative_step * epsilon * gradient / torch.where(length > 0, length, 1), index
        )

    return _follow(model, images, labels, start, step, steps, batch_size)


def _follow(model, images, labels, start, step, steps, batch_size):
    """The loop of both. start(index) -> state of images that enter; step(index, state, gradient) ->
    their next x.

    An image is broken by its first misclassified iterate, the start included, and left alone from then
    on; the forward that judges an iterate is the one its gradient is taken of.
    """
    adversarial, broken = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def enter(index):
        return {**start(index), "done": torch.zeros(len(index), dtype=torch.int64, device=images.device)}

    slots = Slots(len(images), batch_size, enter, images.device)
    while slots.refill():
        index, state = slots.index, slots.state
        x = state["x"].requires_grad_()
        logits = model(x)
        fooled = logits.argmax(1) != labels[index]
        finished = fooled | (state["done"] == steps)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels[index], reduction="sum"), x)
        state["x"] = x.detach()
        if finished.any():
            adversarial[index[finished]], broken[index[fooled]] = state["x"][finished], True
        state["x"] = step(index, state, gradient)
        state["done"] += 1
        slots.leave(finished)
    return adversarial, broken

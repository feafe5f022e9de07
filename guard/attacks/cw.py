"""The L2 attack of Carlini and Wagner (2017) with a fixed trade-off constant."""

import torch

from guard.attacks.slots import Slots

BORDER = 1e-6  # keeps tanh space finite at black and white pixels
BETA1, BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8


def carlini_wagner(model, images, labels, *, epsilon, draws, batch_size, c, kappa, steps, learning_rate):
    """Minimizes ||x' - x||_2^2 + c * max(z_y - max_{j != y} z_j, -kappa) over x' = (tanh w + 1) / 2;
    (adversarial, broken).

    Adam for `steps` iterations, no search over c, no bound on the distance (epsilon and draws, which
    other attacks need, play no part). Of an image's misclassified iterates the nearest is kept. Early
    abort, judged for each image alone: every tenth of the steps, an image whose loss has grown since the
    last look is left as it is.
    """
    del epsilon, draws
    adversarial, broken = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    look_every = max(steps // 10, 1)

    def start(entering):
        x = images[entering]
        w = torch.atanh((2 * x - 1).clamp(-1 + BORDER, 1 - BORDER))
        endless = torch.full((len(entering),), torch.inf, dtype=x.dtype, device=x.device)
        done = torch.zeros(len(entering), dtype=torch.int64, device=x.device)
        return {
            "w": w,
            "mean": torch.zeros_like(w),
            "square": torch.zeros_like(w),
            "done": done,
            "nearest": endless,
            "looked": endless,
        }

    slots = Slots(len(images), batch_size, start, images.device)
    while slots.refill():
        index, state = slots.index, slots.state
        w = state["w"].requires_grad_()
        x = (torch.tanh(w) + 1) / 2
        logits = model(x)
        distance = (x - images[index]).square().flatten(1).sum(1)
        loss = distance + c * _margin(logits, labels[index]).clamp(min=-kappa)
        (gradient,) = torch.autograd.grad(loss.sum(), w)
        x, distance, loss = x.detach(), distance.detach(), loss.detach()

        better = (logits.argmax(1) != labels[index]) & (distance < state["nearest"])
        adversarial[index[better]], broken[index[better]] = x[better], True
        state["nearest"] = torch.where(better, distance, state["nearest"])

        state["done"] += 1
        _adam_step(state, w.detach(), gradient, learning_rate)
        look = (state["done"] - 1) % look_every == 0
        finished = (look & (loss > state["looked"])) | (state["done"] == steps)
        state["looked"] = torch.where(look, loss, state["looked"])
        slots.leave(finished)
    return adversarial, broken


def _margin(logits, labels):
    """z_y - max over the other classes, (N,)."""
    own = logits.gather(1, labels.view(-1, 1))
    return (own.squeeze(1)) - logits.scatter(1, labels.view(-1, 1), -torch.inf).amax(1)


def _adam_step(state, w, gradient, learning_rate):
    """One step of Adam with each image at its own step count."""
    count = state["done"].to(w.dtype).view(-1, 1, 1, 1)
    state["mean"] = BETA1 * state["mean"] + (1 - BETA1) * gradient
    state["square"] = BETA2 * state["square"] + (1 - BETA2) * gradient.square()
    mean, square = state["mean"] / (1 - BETA1**count), state["square"] / (1 - BETA2**count)
    state["w"] = w - learning_rate * mean / (square.sqrt() + ADAM_EPSILON)

"""The L2 attack of Carlini and Wagner (2017) with a fixed trade-off constant."""

import torch

from guard.attacks.slots import Slots, no_steps, none_broken, note_broken, per_image

BORDER = 1e-6  # keeps tanh space finite at black and white pixels
BETA1, BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8  # of Adam
LOOKS = 10  # how often an image's loss is looked at in the course of the attack


def carlini_wagner(model, images, labels, *, epsilon, draws, batch_size, c, kappa, steps, learning_rate):
    """Minimizes ||x' - x||_2^2 + c max(z_y - max_{j != y} z_j, -kappa); (adversarial, broken).

    It is minimized over w, where x' = (tanh w + 1) / 2, by `steps` steps of Adam, without a search over c and
    without a bound on the distance (epsilon and draws, which other attacks need, play no part). Of an image's
    misclassified iterates the nearest is kept. Early abort, judged for each image alone: an image whose loss
    has grown since the last look is left as it is.
    """
    del epsilon, draws
    adversarial, broken = images.clone(), none_broken(images)
    look_every = max(steps // LOOKS, 1)

    def start(entering):
        x = images[entering]
        w = torch.atanh((2 * x - 1).clamp(-1 + BORDER, 1 - BORDER))
        infinite = torch.full((len(entering),), torch.inf, dtype=x.dtype, device=x.device)
        return {
            "w": w,
            "mean": torch.zeros_like(w),  # Adam's of the gradient
            "square": torch.zeros_like(w),  # Adam's of the gradient's square
            "done": no_steps(x),
            "nearest": infinite,  # squared distance of the nearest misclassified iterate
            "looked": infinite,  # loss at the last look
        }

    slots = Slots(len(images), batch_size, start, images.device)
    while slots.refill():
        index, state = slots.index, slots.state
        w = state["w"].requires_grad_()
        x = (torch.tanh(w) + 1) / 2
        logits = model(x)
        distance = (x - images[index]).square().flatten(1).sum(1)
        loss = distance + c * margin(logits, labels[index].view(-1, 1)).clamp(min=-kappa)
        (gradient,) = torch.autograd.grad(loss.sum(), w)
        x, distance, loss = x.detach(), distance.detach(), loss.detach()

        nearer = (logits.argmax(1) != labels[index]) & (distance < state["nearest"])
        note_broken(adversarial, broken, index, x, nearer)
        state["nearest"] = torch.where(nearer, distance, state["nearest"])

        state["done"] += 1
        _adam_step(state, w.detach(), gradient, learning_rate)
        look = (state["done"] - 1) % look_every == 0
        finished = (look & (loss > state["looked"])) | (state["done"] == steps)
        state["looked"] = torch.where(look, loss, state["looked"])
        slots.leave(finished)
    return adversarial, broken


def margin(logits, labels):
    """z_y - max_{j != y} z_j, (N,), of logits (N, classes) and labels y (N, 1)."""
    own = logits.gather(1, labels).squeeze(1)
    largest_other = logits.scatter(1, labels, -torch.inf).amax(1)
    return own - largest_other


def _adam_step(state, w, gradient, learning_rate):
    """One step of Adam on w (k, 3, H, W), each image at its own number of steps."""
    count = per_image(state["done"].to(w.dtype))
    state["mean"] = BETA1 * state["mean"] + (1 - BETA1) * gradient
    state["square"] = BETA2 * state["square"] + (1 - BETA2) * gradient.square()
    mean = state["mean"] / (1 - BETA1**count)
    square = state["square"] / (1 - BETA2**count)
    state["w"] = w - learning_rate * mean / (square.sqrt() + ADAM_EPSILON)

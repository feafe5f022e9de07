"""Adversarial training with one step: N-FGSM (de Jorge et al., NeurIPS 2022), in [0,1] pixels."""

import torch
import torch.nn.functional as F

from guard.networks.models import frozen_eval
from guard.run import seeds
from guard.run.devices import widened


def noisy_step(model, pixels, labels, *, epsilon, draws):
    """x' = clamp(x + eta + epsilon sign(grad CE(f(x + eta), y)), 0, 1), eta uniform in +-2 epsilon.

    pixels: (B, 3, S, S). x' is not projected to the ball of epsilon, so it may lie 3 epsilon from x. The
    model is in eval mode meanwhile, and no gradient of its weights is taken: a forward and a backward pass to
    the pixels alone, some two thirds of a training step.
    """
    like = {"device": pixels.device, "dtype": pixels.dtype}
    noise = 2 * torch.rand(pixels.shape, generator=seeds.on_device(draws, pixels.device), **like) - 1
    moved = (pixels + 2 * epsilon * noise).requires_grad_()
    with frozen_eval(model):
        loss = F.cross_entropy(model(moved), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
    return (moved.detach() + epsilon * gradient.sign()).clamp(0, 1)


def noisy_step_loss(model, pixels, labels, *, settings, draws):
    """CE(f(x'), y), x' of N-FGSM with settings.epsilon: (loss, logits of x'), both with the model in the
    mode that it is in.
    """
    adversarial = noisy_step(model, pixels, labels, epsilon=settings.epsilon, draws=draws)
    logits = widened(model(adversarial))
    return F.cross_entropy(logits, labels), logits

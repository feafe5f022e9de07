"""Adversarial training of the teacher, for the comparison table.

Everything happens in [0,1] pixels and the model normalizes. (The original clamps *normalized* images to
[0, 1], which destroys them; the numbers of steps and their sizes are its own.)
"""

import torch
import torch.nn.functional as F

from guard.networks.models import frozen_eval
from guard.run import seeds
from guard.run.devices import widened

STEP, STEPS = 0.007, 10  # size of a step, in [0,1] pixels, and number of steps
TRADES_EPSILON, TRADES_NOISE = 0.031, 0.001  # in [0,1] pixels
KAPPA = 1.0


def climbed(model, pixels, labels, *, start, epsilon, step=STEP, steps=STEPS):
    """Images (B, 3, S, S) after `steps` sign steps up the cross-entropy from `start`.

    pixels, start: (B, 3, S, S). labels: (B,). The result stays within epsilon (L-inf) of `pixels` and in
    [0,1]. The model is in eval mode meanwhile.
    """
    low, high = (pixels - epsilon).clamp(min=0), (pixels + epsilon).clamp(max=1)
    adversarial = start
    with frozen_eval(model):
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            loss = F.cross_entropy(widened(model(adversarial)), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            adversarial = (adversarial.detach() + step * gradient.sign()).maximum(low).minimum(high)
    return adversarial.detach()


def sign_steps_loss(model, pixels, labels, *, settings, draws):
    """CE(f(x_adv), y), x_adv ten sign steps from x within settings.epsilon (after Wong et al., ICLR 2020).

    Returns (loss, logits of x_adv), both with the model in the mode that it is in.
    """
    del draws  # it starts at the images themselves
    adversarial = climbed(model, pixels, labels, start=pixels, epsilon=settings.epsilon)
    logits = widened(model(adversarial))
    return F.cross_entropy(logits, labels), logits


def trades(model, pixels, labels, *, settings, draws):
    """CE(f(x_adv), y) + beta * kappa * KL(softmax f(x) || softmax f(x_adv)), beta settings.trades_beta.

    After TRADES (Zhang et al., ICML 2019). x_adv: ten sign steps from x + 0.001 N(0, 1), drawn from `draws`,
    within 0.031. KL is summed over classes and averaged over the mini-batch. Returns (loss, logits of x_adv),
    both with the model in the mode that it is in.
    """
    there = {"generator": seeds.on_device(draws, pixels.device), "device": pixels.device}
    start = pixels + TRADES_NOISE * torch.randn(pixels.shape, **there)
    adversarial = climbed(model, pixels, labels, start=start, epsilon=TRADES_EPSILON)
    logits = widened(model(adversarial))
    clean, moved = F.log_softmax(widened(model(pixels)), 1), F.log_softmax(logits, 1)
    distance = F.kl_div(moved, clean, reduction="batchmean", log_target=True)
    loss = F.cross_entropy(logits, labels) + settings.trades_beta * KAPPA * distance
    return loss, logits

"""Adversarial training of the teacher, for the comparison table: in [0,1] pixels, the model normalizes.

The original clamps normalized images to [0, 1], which destroys them; the numbers of steps and their
sizes are its own.
"""

import torch
import torch.nn.functional as F

from guard.networks.models import frozen_eval

STEP, STEPS = 0.007, 10  # in [0,1] pixels
TRADES_EPSILON, TRADES_NOISE, KAPPA = 0.031, 0.001, 1.0


def sign_steps(model, pixels, labels, *, start, epsilon, step=STEP, steps=STEPS):
    """Images after `steps` sign steps up the cross-entropy from `start`, within epsilon of `pixels` and
    in [0,1]; model in eval mode.
    """
    low, high = (pixels - epsilon).clamp(min=0), (pixels + epsilon).clamp(max=1)
    adversarial = start
    with frozen_eval(model):
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            loss = F.cross_entropy(model(adversarial), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            adversarial = (adversarial.detach() + step * gradient.sign()).maximum(low).minimum(high)
    return adversarial.detach()


def adversarial_loss(model, pixels, labels, *, style, epsilon, beta, draws):
    """(loss, logits of the adversarial images), both in the model's own mode.

    't' (TRADES style, Zhang et al. 2019): start from 0.001 N(0,1) noise, within 0.031; CE(f(x_adv), y) +
    beta * kappa * KL(softmax f(x) || softmax f(x_adv)). 'f' (after Wong et al. 2020): start from x,
    within epsilon; CE(f(x_adv), y).
    """
    if style == "f":
        adversarial = sign_steps(model, pixels, labels, start=pixels, epsilon=epsilon)
        logits = model(adversarial)
        return F.cross_entropy(logits, labels), logits
    noise = TRADES_NOISE * torch.randn(pixels.shape, generator=draws).to(pixels.device)
    adversarial = sign_steps(model, pixels, labels, start=pixels + noise, epsilon=TRADES_EPSILON)
    logits = model(adversarial)
    distance = F.kl_div(
        F.log_softmax(logits, 1), F.log_softmax(model(pixels), 1), reduction="batchmean", log_target=True
    )
    return F.cross_entropy(logits, labels) + beta * KAPPA * distance, logits

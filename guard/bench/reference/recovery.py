"""Recovery of images, one problem at a time, with gradients of the weights as well."""

import contextlib
import math

import torch
import torchvision.transforms.functional as vision
from torch import nn

from guard.bench.reference.teacher import eval_mode

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# ---- recovery ------------------------------------------------------------------------------------


@contextlib.contextmanager
def batch_norm_terms(network):
    """Yields a list to which every forward adds one term per BN layer, in the order in which they run:
    ||var_k - running_var_k||_2 + ||mean_k - running_mean_k||_2 of the layer's input over (N,H,W), biased
    variance (2, recover).
    """
    terms = []

    def look(module, inputs, output):
        features = inputs[0]
        channels = features.shape[1]
        if features.dim() == 4:
            features = features.permute(0, 2, 3, 1)
        values = features.reshape(-1, channels)
        mean = values.sum(dim=0) / len(values)
        var = (values - mean).square().sum(dim=0) / len(values)
        terms.append(
            torch.linalg.vector_norm(var - module.running_var)
            + torch.linalg.vector_norm(mean - module.running_mean)
        )

    handles = [
        module.register_forward_hook(look) for module in network.modules() if isinstance(module, BATCH_NORMS)
    ]
    try:
        yield terms
    finally:
        for handle in handles:
            handle.remove()


def weighted(terms):
    """sum_k w_k term_k, w 10 for the first layer that runs, 1 for the others."""
    total = 0.0
    for k, term in enumerate(terms):
        total = total + (10.0 if k == 0 else 1.0) * term
    return total


def batch_norm_loss(network, x):
    """The weighted sum of the terms for a batch x (recover)."""
    with eval_mode(network), batch_norm_terms(network) as terms:
        network(x)
    return weighted(terms)


def look_at(x, view):
    """One view of the batch: crop and resize to full size, flip, roll."""
    box, flip, (dy, dx) = view
    if box is not None:
        top, left, height, width = box
        x = vision.resized_crop(
            x,
            top,
            left,
            height,
            width,
            list(x.shape[-2:]),
            interpolation=vision.InterpolationMode.BILINEAR,
            antialias=True,
        )
    if flip:
        x = torch.flip(x, dims=(3,))
    return torch.roll(x, shifts=(dy, dx), dims=(2, 3))


def recover(network, labels, noise, views, mean, std, r_bn, step_size):
    """One problem of stage recover from `noise` to its last iterate, normalized images (2).

    Objective CE(f(aug(x)), y) + r_bn * batch_norm_loss; Adam written out, cosine to 0.
    """
    beta1, beta2, eps = 0.5, 0.9, 1e-8
    iterations = len(views)
    x = noise.detach().clone()
    mean = torch.as_tensor(mean, dtype=x.dtype, device=x.device).reshape(1, -1, 1, 1)
    std = torch.as_tensor(std, dtype=x.dtype, device=x.device).reshape(1, -1, 1, 1)
    lowest = (0 - mean) / std
    highest = (1 - mean) / std
    first = torch.zeros_like(x)
    second = torch.zeros_like(x)
    with eval_mode(network), batch_norm_terms(network) as terms:
        for t, view in enumerate(views):
            x.requires_grad_(True)
            terms.clear()
            logits = network(look_at(x, view))
            loss = 0.0
            for i in range(len(labels)):
                loss = loss + torch.logsumexp(logits[i], dim=0) - logits[i, int(labels[i])]
            loss = loss / len(labels)
            loss = loss + r_bn * weighted(terms)
            loss.backward()
            gradient = x.grad
            x = x.detach()
            first = beta1 * first + (1 - beta1) * gradient
            second = beta2 * second + (1 - beta2) * gradient**2
            first_hat = first / (1 - beta1 ** (t + 1))
            second_hat = second / (1 - beta2 ** (t + 1))
            rate = step_size * 0.5 * (1 + math.cos(math.pi * t / iterations))
            x = x - rate * first_hat / (second_hat.sqrt() + eps)
            x = torch.minimum(torch.maximum(x, lowest), highest)
    return x


def crop_scale_lower_bound(iteration, iterations, schedule, milestone, lowest):
    """CDA's lower bound of the crop scale: 1 to `lowest` over the milestone fraction (`-A`)."""
    # A quotient, because milestone * iterations can round to just above a whole number.
    done = iteration / iterations
    if done >= milestone:
        return lowest
    progress = done / milestone
    if schedule == "cosine":
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "linear":
        return 1 - (1 - lowest) * progress
    if schedule == "step":
        return 1.0
    raise ValueError(f"unknown schedule {schedule!r}")

"""The balls of size epsilon around the images, and random places in them."""

import torch


def bounds(images, epsilon):
    """(lowest, highest) valid pixels within epsilon (L-inf) of `images`; both (N, 3, H, W), in [0,1]."""
    return (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)


def uniform_noise(images, positions, draws):
    """Noise like `images` (k, 3, H, W), uniform in [-1, 1], for the images at `positions` (k,).

    Each image's noise comes from its own generator, draws(position), on the CPU.
    """
    noise = []
    for position in positions.tolist():
        drawn = torch.rand(images.shape[1:], generator=draws(position), dtype=images.dtype)
        noise.append(2 * drawn - 1)
    return torch.stack(noise).to(images.device)


def uniform_in_unit_ball(images, positions, draws):
    """Changes like `images` (k, 3, H, W), uniform in the L2 ball of radius 1, drawn as in `uniform_noise`."""
    noise = []
    for position in positions.tolist():
        generator = draws(position)
        direction = torch.randn(images.shape[1:], generator=generator, dtype=images.dtype)
        # In D dimensions the share of the ball within a radius r is r^D.
        radius = torch.rand((), generator=generator, dtype=images.dtype) ** (1 / direction.numel())
        noise.append(direction / direction.norm() * radius)
    return torch.stack(noise).to(images.device)

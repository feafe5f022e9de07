"""Curvature, measured."""

import torch

from guard.method.regularizers import AtImages, normalized
from guard.networks.folding import folded
from guard.networks.models import frozen_eval


def largest_eigenvalues(hessian_times, start, iterations):
    """(B,) the largest eigenvalue of each image's Hessian, by Lanczos' method: power iteration that
    keeps its history.

    hessian_times: (B, ...) -> (B, ...). start: unit directions. Each iteration costs one product, as in
    plain power iteration, which does not converge where the two ends of the spectrum are equally far
    from zero.
    """
    basis, diagonal, beside = [start.flatten(1)], [], []
    for _ in range(iterations):
        image = hessian_times(basis[-1].view_as(start)).flatten(1)
        diagonal.append((image * basis[-1]).sum(1))
        for earlier in (*basis, *basis):  # twice, for orthogonality in floating point
            image = image - (image * earlier).sum(1, keepdim=True) * earlier
        beside.append(image.norm(dim=1))
        basis.append(normalized(image))
    middle, off = torch.stack(diagonal, 1), torch.stack(beside[:-1], 1)
    return torch.linalg.eigvalsh(
        torch.diag_embed(middle) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    )[:, -1]


def measure(network, x, y, h, iterations=20, generator=None):
    """Curvature of each image's loss at x, in eval mode: a dict of three tensors (B,), all per squared
    normalized-image unit.

    gradient_change: ||grad l(x + z) - grad l(x)|| / h, what the regularizer sees. along_z: u^T H u with
    u = z / ||z|| and H the Hessian of l_i with respect to x_i. largest_eigenvalue: of H, by `iterations`
    Lanczos steps from a random direction (drawn on the CPU from `generator`).
    """
    with frozen_eval(network), folded(network):
        at = AtImages(network, x, y, second_order=True)

        def hessian_times(direction):
            (product,) = torch.autograd.grad(at.gradient, at.x, direction, retain_graph=True)
            return product.detach()

        upward = normalized(at.gradient.detach())
        along_z = (hessian_times(upward) * upward).flatten(1).sum(1)
        start = normalized(torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device))
        eigenvalue = largest_eigenvalues(hessian_times, start, iterations)
        change = at.gradient_change(h).detach().norm(dim=1) / h
    return {"gradient_change": change, "along_z": along_z, "largest_eigenvalue": eigenvalue}

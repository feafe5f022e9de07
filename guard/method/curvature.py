"""Curvature of the loss with respect to the images, measured."""

import torch

from guard.method.regularizers import AtImages, normalized
from guard.networks.folding import folded
from guard.networks.models import frozen_eval
from guard.networks.twice import twice_differentiable


def largest_eigenvalues(hessian_times, start, iterations):
    """(B,) largest eigenvalue of each image's Hessian, by Lanczos' method.

    hessian_times: the product of each image's Hessian with a direction, (B, ...) -> (B, ...). start: (B, ...)
    unit directions. Lanczos' method is power iteration that keeps its history. An iteration costs one
    product, as in plain power iteration, which does not converge where the two ends of the spectrum are
    equally far from zero. Of a Hessian that is not finite it is NaN.
    """
    basis = [start.flatten(1)]  # of orthonormal directions (B, D)
    diagonal, off_diagonal = [], []  # of the Hessian in that basis, which is tridiagonal; (B,) each
    for _ in range(iterations):
        product = hessian_times(basis[-1].view_as(start)).flatten(1)
        diagonal.append((product * basis[-1]).sum(1))
        for earlier in (*basis, *basis):  # twice, for orthogonality in floating point
            product = product - (product * earlier).sum(1, keepdim=True) * earlier
        off_diagonal.append(product.norm(dim=1))
        basis.append(normalized(product))
    middle, beside = torch.stack(diagonal, 1), torch.stack(off_diagonal[:-1], 1)
    tridiagonal = torch.diag_embed(middle) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
    finite = tridiagonal.isfinite().all(2).all(1)  # of others LAPACK makes an error
    largest = torch.linalg.eigvalsh(torch.where(finite.view(-1, 1, 1), tridiagonal, 0))[:, -1]
    return torch.where(finite, largest, torch.nan)


def measure(network, x, y, h, iterations=20, generator=None):
    """Curvature of each image's loss at x, in eval mode: a dict of three tensors (B,).

    x: normalized images (B, 3, S, S). y: (B,) labels. h: length of z, in normalized-image units. All values
    are per squared normalized-image unit:

    gradient_change: ||grad l(x + z) - grad l(x)|| / h, what the regularizer sees.
    along_z: u^T H u with u = z / ||z|| and H the Hessian of l_i with respect to x_i.
    largest_eigenvalue: of H, by `iterations` Lanczos steps from a random direction, which is drawn on the CPU
    from `generator`.
    """
    with frozen_eval(network), twice_differentiable(network), folded(network):
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

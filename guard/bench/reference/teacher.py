"""The teacher's loss: regularizers, adversarial training, curvature. One image at a time."""

import contextlib

import torch
from torch import nn


@contextlib.contextmanager
def eval_mode(network):
    """The whole network in eval mode; each module's own training flag comes back afterwards."""
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def cross_entropy(network, x_i, y_i):
    """CE of one image (C,H,W) alone: logsumexp of its logits minus the true class's logit."""
    logits = network(x_i.unsqueeze(0))[0]
    return torch.logsumexp(logits, dim=0) - logits[int(y_i)]


def image_gradient(network, x_i, y_i, create_graph=False):
    """grad_x of the CE of one image alone."""
    x_i = x_i.detach().clone().requires_grad_(True)
    loss = cross_entropy(network, x_i, y_i)
    (gradient,) = torch.autograd.grad(loss, x_i, create_graph=create_graph)
    return gradient


def prediction(network, x_i):
    """Predicted class of one image."""
    with torch.no_grad():
        return int(network(x_i.unsqueeze(0))[0].argmax())


# ---- regularizers of the teacher -----------------------------------------------------------------


def direction(network, x, y, h):
    """z_i = h g_i / ||g_i||, g_i = grad_x l_i(x_i); zero where g_i is zero; a constant."""
    z = torch.zeros_like(x)
    with eval_mode(network):
        for i in range(len(x)):
            g = image_gradient(network, x[i], y[i])
            largest = g.abs().max()
            if largest > 0:
                # Scaled first: the squares of a tiny gradient would underflow to a zero norm.
                g = g / largest
                z[i] = h * g / g.square().sum().sqrt()
    return z.detach()


def gradient_norm(network, x, y, h):
    """mean_i || grad_x L(x+z)_i - grad_x L(x)_i ||, L the batch mean (`gradient-norm`)."""
    batch = len(x)
    z = direction(network, x, y, h)
    total = 0.0
    with eval_mode(network):
        for i in range(batch):
            # L is a mean over the batch: image i's own gradient carries 1/B.
            moved = image_gradient(network, x[i] + z[i], y[i], create_graph=True) / batch
            still = image_gradient(network, x[i], y[i], create_graph=True) / batch
            # vector_norm, because its derivative at a zero difference is 0 and not NaN.
            total = total + torch.linalg.vector_norm(moved - still)
    return total / batch


def gradient_squared(network, x, y, h):
    """mean_i || grad_x l_i(x_i+z_i) - grad_x l_i(x_i) ||^2, no 1/B (`gradient-squared`)."""
    batch = len(x)
    z = direction(network, x, y, h)
    total = 0.0
    with eval_mode(network):
        for i in range(batch):
            moved = image_gradient(network, x[i] + z[i], y[i], create_graph=True)
            still = image_gradient(network, x[i], y[i], create_graph=True)
            total = total + (moved - still).square().sum()
    return total / batch


def loss_difference(network, x, y, h):
    """| L(x+z) - L(x) |, L the mean CE over the batch (`loss`)."""
    batch = len(x)
    z = direction(network, x, y, h)
    moved = 0.0
    still = 0.0
    with eval_mode(network):
        for i in range(batch):
            moved = moved + cross_entropy(network, x[i] + z[i], y[i])
            still = still + cross_entropy(network, x[i], y[i])
    return (moved / batch - still / batch).abs()


def gradient_regularization(network, x, y):
    """mean_i || grad_x L(x)_i ||, L the batch mean (GR)."""
    batch = len(x)
    total = 0.0
    with eval_mode(network):
        for i in range(batch):
            gradient = image_gradient(network, x[i], y[i], create_graph=True) / batch
            total = total + torch.linalg.vector_norm(gradient)
    return total / batch


# ---- one step of the teacher, in batches, pass by pass as the formulas have them -----------------


def batch_gradient(network, x, y, create_graph):
    """grad_x of the summed CE of a batch."""
    x = x.detach().clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(network(x), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x, create_graph=create_graph)
    return gradient


def teacher_loss(network, x, y, regularizer, coefficient, h):
    """L(f(x), y) plus coefficient times `gradient-norm` or `loss`, or nothing for None."""
    total = nn.functional.cross_entropy(network(x), y)
    if regularizer is None:
        return total
    with eval_mode(network):
        g = batch_gradient(network, x, y, create_graph=False)
        norms = g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        z = h * g / norms.clamp(min=1e-30)
        if regularizer == "loss":
            moved = nn.functional.cross_entropy(network(x + z), y)
            still = nn.functional.cross_entropy(network(x), y)
            return total + coefficient * (moved - still).abs()
        moved = batch_gradient(network, x + z, y, create_graph=True) / len(x)
        still = batch_gradient(network, x, y, create_graph=True) / len(x)
        return total + coefficient * (moved - still).flatten(1).norm(dim=1).mean()


# ---- adversarial training of the teacher ---------------------------------------------------------


def kl_divergence(p_logits, q_logits):
    """KL(softmax(p) || softmax(q)): sum over classes of p (log p - log q), mean over the batch."""
    total = 0.0
    for p_row, q_row in zip(p_logits, q_logits):
        log_p = p_row - torch.logsumexp(p_row, dim=0)
        log_q = q_row - torch.logsumexp(q_row, dim=0)
        total = total + (log_p.exp() * (log_p - log_q)).sum()
    return total / len(p_logits)


def trades_loss(network_pixels, x_adv, x, y, beta, kappa=1.0):
    """CE(f(x_adv), y) + beta kappa KL(softmax f(x) || softmax f(x_adv)) (1, `t`).

    Whole batches and the network's own mode: it is the training loss itself.
    """
    adversarial = network_pixels(x_adv)
    clean = network_pixels(x)
    total = 0.0
    for i in range(len(y)):
        total = total + torch.logsumexp(adversarial[i], dim=0) - adversarial[i, int(y[i])]
    return total / len(y) + beta * kappa * kl_divergence(clean, adversarial)


def project(pixels, original, epsilon):
    """Nearest valid image within epsilon (L-inf) of the original."""
    pixels = torch.minimum(torch.maximum(pixels, original - epsilon), original + epsilon)
    return pixels.clamp(0.0, 1.0)


def adversarial_example(model, pixels, labels, step, steps, epsilon, start):
    """Sign steps on CE in pixel space from pixels + start (1, `t` and `f`).

    `start` is a perturbation. As in the formula, the first gradient is taken at pixels + start
    as it is; every step ends with the clamps.
    """
    result = []
    with eval_mode(model):
        for i in range(len(pixels)):
            current = pixels[i] + start[i]
            for _ in range(steps):
                current = current + step * image_gradient(model, current, labels[i]).sign()
                current = project(current, pixels[i], epsilon)
            result.append(current.detach())
    return torch.stack(result)


# ---- curvature of the loss -----------------------------------------------------------------------


def hessian(network, x_i, y_i):
    """Full (D,D) Hessian of the CE of one image with respect to its flattened input."""
    shape = x_i.shape[-3:]

    def loss(flat):
        return cross_entropy(network, flat.reshape(shape), y_i)

    with eval_mode(network):
        return torch.autograd.functional.hessian(loss, x_i.detach().reshape(-1))


def largest_eigenvalue(network, x_i, y_i):
    """The Hessian's eigenvalue of largest magnitude, with its sign."""
    matrix = hessian(network, x_i, y_i)
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return values[values.abs().argmax()]


def curvature_along_z(network, x_i, y_i, h):
    """z^T H z / z^T z, z of the regularizer (1); zero where z is zero."""
    x_i = x_i.reshape(x_i.shape[-3:])
    z = direction(network, x_i.unsqueeze(0), [y_i], h)[0].reshape(-1)
    if not z.any():
        return z.sum()
    return (z @ hessian(network, x_i, y_i) @ z) / (z @ z)

"""Plain, slow transcription of SPEC's formulas: the oracle that the fast code is tested against.

Images are handled one at a time wherever a formula is about one image, and nothing is shared
between passes. Numbers in brackets name the section of SPEC that a formula comes from.
"""

import contextlib
import math

import torch
import torchvision.transforms.functional as vision
from PIL import Image
from torch import nn
from torchvision import transforms

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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


# --- Regularizers of the teacher (1) ---


def direction(network, x, y, h):
    """z_i = h g_i / ||g_i||, g_i = grad_x l_i(x_i); zero where g_i is zero; a constant (1)."""
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
    """mean_i || grad_x L(x+z)_i - grad_x L(x)_i ||, L the batch mean (1, `gradient-norm`)."""
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
    """mean_i || grad_x l_i(x_i+z_i) - grad_x l_i(x_i) ||^2, no 1/B (1, `gradient-squared`)."""
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
    """| L(x+z) - L(x) |, L the mean CE over the batch (1, `loss`)."""
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
    """mean_i || grad_x L(x)_i ||, L the batch mean (1, GR)."""
    batch = len(x)
    total = 0.0
    with eval_mode(network):
        for i in range(batch):
            gradient = image_gradient(network, x[i], y[i], create_graph=True) / batch
            total = total + torch.linalg.vector_norm(gradient)
    return total / batch


# --- One step of the teacher, in batches, pass by pass as the formulas have them (1) ---


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


# --- Adversarial training of the teacher (1) ---


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


# --- Curvature of the loss (1) ---


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


# --- Recovery (2) ---


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
    """The weighted sum of the terms for a batch x (2, recover)."""
    with eval_mode(network), batch_norm_terms(network) as terms:
        network(x)
    return weighted(terms)


def look_at(x, view):
    """One view of the batch: crop and resize to full size, flip, roll (2)."""
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
    """CDA's lower bound of the crop scale: 1 to `lowest` over the milestone fraction (2, `-A`)."""
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


# --- Relabel and train (2) ---


def student_loss(teacher_logits, student_logits, temperature):
    """KL(softmax(teacher/T) || softmax(student/T)), batch mean, no T^2 (2, train)."""
    return kl_divergence(teacher_logits / temperature, student_logits / temperature)


def cutmix(images, partner, box):
    """Each image with region `box` taken from its partner; box = (top, left, height, width)."""
    top, left, height, width = box
    mixed = images.clone()
    for i in range(len(images)):
        for row in range(top, top + height):
            for column in range(left, left + width):
                mixed[i, :, row, column] = images[int(partner[i]), :, row, column]
    return mixed


def mixup(images, partner, lam):
    """lam * image + (1 - lam) * its partner."""
    mixed = [lam * images[i] + (1 - lam) * images[int(partner[i])] for i in range(len(images))]
    return torch.stack(mixed)


class LabelledViews(torch.utils.data.Dataset):
    """Image files, each decoded, cropped, flipped and normalized when it is asked for."""

    def __init__(self, files, labels, size):
        self.files, self.labels = files, labels
        self.view = transforms.Compose(
            [
                transforms.RandomResizedCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as image:
            return self.view(image.convert("RGB")), self.labels[index]


def mixed_batches(files, labels, size, batch_size, workers):
    """One pass over the files in shuffled batches, CutMix with Beta(1,1) on each: (images, labels) (2,
    relabel).
    """
    views = LabelledViews(files, labels, size)
    loader = torch.utils.data.DataLoader(views, batch_size, shuffle=True, num_workers=workers)
    for images, classes in loader:
        lam = torch.distributions.Beta(1.0, 1.0).sample().item()
        side = int(size * math.sqrt(1 - lam))
        cy, cx = torch.randint(size, (2,)).tolist()
        top, left = max(cy - side // 2, 0), max(cx - side // 2, 0)
        bottom, right = min(cy + side // 2, size), min(cx + side // 2, size)
        partner = torch.randperm(len(images))
        images[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
        yield images, classes


# --- Attacks (3) ---


def pgd(model, images, labels, epsilon, step, steps, starts):
    """L-inf PGD from images + starts; returns (adversarial, broken) (3).

    The first misclassified iterate is returned, the start included; otherwise the last one.
    """
    adversarial = []
    broken = []
    with eval_mode(model):
        for i in range(len(images)):
            image, label = images[i].detach(), int(labels[i])
            current = image
            fooled = prediction(model, current) != label
            if not fooled:
                current = project(image + starts[i], image, epsilon)
                fooled = prediction(model, current) != label
                for _ in range(steps):
                    if fooled:
                        break
                    gradient = image_gradient(model, current, label)
                    current = project(current + step * gradient.sign(), image, epsilon)
                    fooled = prediction(model, current) != label
            adversarial.append(current)
            broken.append(fooled)
    return torch.stack(adversarial), torch.tensor(broken, device=images.device)


def mim(model, images, labels, epsilon, step, steps, decay):
    """L-inf momentum iterative attack from the image itself; returns (adversarial, broken) (3).

    g = decay g + grad / ||grad||_1, that image's own gradient and norm.
    """
    adversarial = []
    broken = []
    with eval_mode(model):
        for i in range(len(images)):
            image, label = images[i].detach(), int(labels[i])
            current = image
            momentum = torch.zeros_like(image)
            fooled = prediction(model, current) != label
            for _ in range(steps):
                if fooled:
                    break
                gradient = image_gradient(model, current, label)
                norm = gradient.abs().sum()
                momentum = decay * momentum
                # A zero gradient adds nothing; dividing it by its norm would give NaN.
                if norm > 0:
                    momentum = momentum + gradient / norm
                current = project(current + step * momentum.sign(), image, epsilon)
                fooled = prediction(model, current) != label
            adversarial.append(current)
            broken.append(fooled)
    return torch.stack(adversarial), torch.tensor(broken, device=images.device)


def cw(model, images, labels, c, kappa, steps, learning_rate, bound=1e-6):
    """L2 CW in tanh space with one fixed c; returns (adversarial, broken) (3).

    Loss ||x_adv - x||_2^2 + c max(z_y - max_{j != y} z_j, -kappa). Of the misclassified iterates
    the one nearest to the image is returned; an image that stands is returned as it came.
    """
    adversarial = []
    broken = []
    with eval_mode(model):
        for i in range(len(images)):
            image, label = images[i].detach(), int(labels[i])
            best = image
            fooled = prediction(model, image) != label
            if not fooled:
                # Black and white pixels would have w = -inf and +inf.
                w = torch.atanh((2 * image - 1).clamp(-1 + bound, 1 - bound))
                w = w.detach().clone().requires_grad_(True)
                optimizer = torch.optim.Adam([w], lr=learning_rate)
                best_distance = math.inf
                previous = math.inf
                for iteration in range(steps):
                    current = (torch.tanh(w) + 1) / 2
                    distance = (current - image).square().sum()
                    logits = model(current.unsqueeze(0))[0]
                    others = torch.cat([logits[:label], logits[label + 1 :]])
                    margin = (logits[label] - others.max()).clamp(min=-kappa)
                    loss = distance + c * margin
                    (w.grad,) = torch.autograd.grad(loss, w)
                    optimizer.step()
                    # Judged is the iterate whose loss this is, the one before the step.
                    if int(logits.argmax()) != label and distance.item() < best_distance:
                        best_distance = distance.item()
                        best = current.detach()
                        fooled = True
                    if iteration % max(steps // 10, 1) == 0:
                        if loss.item() >= previous:
                            break
                        previous = loss.item()
            adversarial.append(best)
            broken.append(fooled)
    return torch.stack(adversarial), torch.tensor(broken, device=images.device)

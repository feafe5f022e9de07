"""PGD, MIM and the Carlini-Wagner attack, one image at a time."""

import math

import torch

from guard.bench.reference.teacher import eval_mode, image_gradient, prediction, project

# ---- attacks -------------------------------------------------------------------------------------


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

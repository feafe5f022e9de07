"""The checks that an evaluation makes of itself: of the model, and of what the attacks found."""

import torch
import torch.nn.functional as F

from guard import attacks
from guard.data.augment import as_float
from guard.data.images import spread
from guard.networks.models import frozen_eval

TOLERANCE = 1e-6  # of float32 when a change is compared with epsilon

MISSED = "PGD found what AutoAttack missed, so gradients are masked or the model is random"
TOO_SHORT = "PGD found what AutoAttack's ten steps missed, so these are too few here: trust protocol standard"
BLACK_BOX = (
    "a black-box attack beats a white-box one, so the gradients mislead: they vanish, or something in the"
    " model hides them"
)
ATTACKED_NOTHING = "an attack cannot repair images, so its images were exchanged"
# (attack that has to be at least as strong, weaker one, what it means when it is not)
ORDER = (
    ("autoattack", "pgd100", MISSED),
    ("autoattack-paper", "pgd100", TOO_SHORT),
    ("autoattack", "square", BLACK_BOX),
    ("autoattack-paper", "square", BLACK_BOX),
    ("pgd100", "square", BLACK_BOX),
    ("mim", "square", BLACK_BOX),
    ("pgd100", "clean", ATTACKED_NOTHING),
    ("square", "clean", ATTACKED_NOTHING),
    ("mim", "clean", ATTACKED_NOTHING),
    ("cw", "clean", ATTACKED_NOTHING),
)


def said(evaluation):
    """What the checks say of an evaluation that is in a record: what they said when it was made, and pairs
    of attacks that are held against each other since.
    """
    accuracies = {name: found["accuracy"] for name, found in evaluation["attacks"].items()}
    return [*dict.fromkeys([*evaluation.get("warnings", ()), *_out_of_order(accuracies)])]


def said_of_both(record):
    """(network, sentence) of all that the checks say of a record's evaluations of teacher and student."""
    return [
        (network, text)
        for network in ("teacher", "student")
        if (evaluated := record.get(f"evaluate {network}"))
        for text in said(evaluated)
    ]


def check_model(model, images, size, device, count=64):
    """One sentence for each property of the model with which an attack's number means little.

    images: Packed, Mapped or Streamed of guard.data.images, of which `count` are looked at in the validation
    view of `size` pixels. model: in eval mode, on `device`.
    """
    chosen = spread(len(images), count)
    pixels = as_float(images.validation(chosen, size)).to(device)
    labels = images.labels[chosen].to(device)
    with torch.inference_mode(False), torch.enable_grad(), frozen_eval(model):
        pixels, labels = pixels.clone().requires_grad_(), labels.clone()
        logits = model(pixels)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), pixels)
        with torch.no_grad():
            again = model(pixels)
    logits = logits.detach()
    warnings = []
    vanished = (gradient.flatten(1) == 0).all(1).double().mean().item()
    if vanished:
        warnings.append(
            f"the gradient is zero on {100 * vanished:.0f} % of the images: attacks that follow it find"
            " nothing there, usually since the loss saturates"
        )
    if logits.min() >= 0 and ((logits.sum(1) - 1).abs() < 1e-4).all():
        warnings.append(
            "the outputs are probabilities already: attacks need logits, a softmax in the model usually makes"
            " gradients vanish"
        )
    if not logits.isfinite().all():
        warnings.append(
            "outputs are no finite numbers: the network is ruined, and no accuracy here says anything"
        )
    elif not torch.equal(logits, again):
        warnings.append(
            "two calls give different outputs: the model is random, and attacks without averaging over its"
            " randomness overrate it"
        )
    return warnings


def check_results(accuracies, results, epsilon):
    """One sentence for each check that fails.

    The changes have to be within epsilon, the pixels in [0,1] and no NaN, and stronger attacks must not leave
    more images standing than weaker ones. accuracies: {name: percent}. results: {name: what
    `robustness.evaluate` notes of an attack}.
    """
    warnings = []
    for name, result in results.items():
        bounded = name in attacks.ATTACKS and attacks.ATTACKS[name].norm == "L-inf"
        if bounded and result["largest_change"] > epsilon + TOLERANCE:
            warnings.append(
                f"{name} changed a pixel by {result['largest_change']:.6f}, more than epsilon {epsilon:.6f}:"
                " do not use its number"
            )
        if result["out_of_range"] > TOLERANCE or result["not_a_number"]:
            warnings.append(f"{name} left the valid pixels: do not use its number")
    return warnings + _out_of_order(accuracies)


def _out_of_order(accuracies):
    """One sentence for each pair of ORDER of which the stronger attack leaves more images standing."""
    warnings = []
    for stronger, weaker, meaning in ORDER:
        if not {stronger, weaker} <= set(accuracies):
            continue
        above, below = accuracies[stronger], accuracies[weaker]
        if above > below + 1e-9:
            warnings.append(f"{stronger} {above:.2f} is above {weaker} {below:.2f}: {meaning}")
    return warnings

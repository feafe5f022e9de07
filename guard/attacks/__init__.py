"""Attacks on a model that maps pixels in [0,1] to logits: one entry for all of them.

    from guard.attacks import attack
    adversarial = attack("pgd100", model, images, labels, epsilon=1/255, seed=0)

The attacks and the frozen protocols are rows of guard.registry.
"""

import math

import torch

from guard import registry
from guard.attacks.prepare import prepared
from guard.errors import UserError, first_line
from guard.networks.models import frozen_eval
from guard.registry import ATTACKS, PROTOCOL_EPSILON, PROTOCOLS, Attack
from guard.run.seeds import generator

__all__ = ["ATTACKS", "PROTOCOLS", "PROTOCOL_EPSILON", "Attack", "attack", "run", "wrong"]
ROWS = 8  # mini-batches are filled up to a multiple of this, see _whole_blocks


def check_inputs(model, images, labels, epsilon, norm="L-inf"):
    """Raises UserError for what no attack can work on.

    That is a bad epsilon, a model that is no module or in train mode, what are no tensors of pixels and
    classes, shapes that do not fit, pixels outside [0,1], or negative labels. norm: that of epsilon.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise UserError(f"epsilon is {epsilon}; it has to be a finite number of at least 0, in [0,1] pixels")
    if norm == "L-inf" and epsilon > 1:
        raise UserError(f"epsilon is {epsilon:g}, more than all of a pixel; perhaps {epsilon:g}/255 is meant")
    if not isinstance(model, torch.nn.Module):
        raise UserError(f"the model is a {type(model).__name__}; wrap it in a torch.nn.Module")
    if model.training:
        raise UserError("the model is in train mode; call model.eval() before an attack")
    if any(held.is_inference() for held in (*model.parameters(), *model.buffers())):
        raise UserError("the model was made in torch.inference_mode, which has no gradients; make it outside")
    if not (isinstance(images, torch.Tensor) and images.is_floating_point()):
        raise UserError("the images are no floating-point tensor; expected pixels in [0,1], (N, 3, H, W)")
    if not (isinstance(labels, torch.Tensor) and labels.dtype == torch.int64):
        raise UserError("the labels are no int64 tensor; expected the numbers of classes, (N,)")
    if images.ndim != 4 or images.shape[1] != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise UserError(
            f"images are {tuple(images.shape)} and labels {tuple(labels.shape)};"
            " expected (N, 3, H, W) and (N,)"
        )
    # Asked so that NaN is refused, too.
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise UserError(
            f"images reach from {images.min():.3g} to {images.max():.3g}; pixels have to be in [0,1],"
            " normalization belongs into the model"
        )
    if len(labels) and labels.min() < 0:
        raise UserError(f"labels reach down to {labels.min()}; they have to be class numbers from 0")
    if len(images):
        _check_taken(model, images[:1])


def _check_taken(model, images):
    """Raises UserError for images of a type or size that the model, wherever it is, does not compute with."""
    place = next((each.device for each in (*model.parameters(), *model.buffers())), images.device)
    try:
        with torch.no_grad():
            model(images.to(place))
    except RuntimeError as problem:
        raise UserError(
            f"the model does not take images {tuple(images.shape[1:])} in {images.dtype}"
            f" ({first_line(problem)}); give it those that it takes, and both the same type, such as"
            " model.float() and images.float()"
        ) from None


def attack(name, model, images, labels, *, epsilon=PROTOCOL_EPSILON, seed=0, indices=None, batch_size=128):
    """Adversarial images (N, 3, H, W) in [0,1], by the attack `name`.

    model: pixels to logits, in eval mode; its weights, their gradients and its mode stay as they are.
    images: (N, 3, H, W) in [0,1]. labels: (N,) true classes. epsilon: largest change of a pixel (of the L2
    norm for pgd100-l2; cw knows none). indices: the images' numbers in their data set [0, 1, ...]. With seed
    and attack they decide the random draws, so that nothing depends on mini-batches or order. Images that the
    model gets wrong anyway come back unchanged. Raises UserError for bad inputs.
    """
    settings = {"epsilon": epsilon, "seed": seed, "indices": indices, "batch_size": batch_size}
    adversarial, _ = run(name, model, images, labels, **settings)
    return adversarial


def run(name, model, images, labels, *, epsilon, seed=0, indices=None, batch_size=128, known=None):
    """As `attack`, but returns (adversarial, broken).

    broken: (N,) bool, misclassified clean or by some iterate of the attack. known: (N,) bool, images that are
    known to be broken; they need no attack and come back unchanged.
    """
    if name not in ATTACKS:
        raise UserError(f"there is no attack '{name}'; there are {', '.join(ATTACKS)}")
    check_inputs(model, images, labels, epsilon, ATTACKS[name].norm)
    numbers = range(len(images)) if indices is None else torch.as_tensor(indices).tolist()
    if len(numbers) != len(images):
        raise UserError(f"there are {len(numbers)} indices of {len(images)} images; give each its number")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it has to be at least 1")
    # Whatever the caller has switched off, as evaluations do: attacks follow gradients.
    with torch.inference_mode(False), torch.enable_grad(), frozen_eval(model):
        images = images.detach()
        images, labels = (held.clone() if held.is_inference() else held for held in (images, labels))
        adversarial = images.clone()
        broken = wrong(model, images, labels, batch_size)
        if known is not None:
            broken |= known.to(broken.device)
        fast = prepared(model, images)

        def attack_on(attacked, part, chosen):
            """Attacks the images at the positions `chosen` by way of the model `attacked`.

            Returns the positions of those that `attacked` gets wrong afterwards and `model` does not.
            """
            own_numbers = [numbers[i] for i in chosen.tolist()]
            inputs = images[chosen], labels[chosen]
            found, fell = _single(part, attacked, *inputs, epsilon, seed, own_numbers, batch_size)
            confirmed = fell & wrong(model, found, labels[chosen], batch_size)
            adversarial[chosen], broken[chosen] = found, confirmed
            return chosen[fell & ~confirmed]

        for part in ATTACKS[name].parts or (name,):
            standing = (~broken).nonzero().squeeze(1)
            if not len(standing):
                break
            doubtful = attack_on(fast, part, standing)
            # Rounding in the prepared copy may break an image that the model itself still gets right. It is
            # attacked once more on the model itself, so that what counts as broken is broken.
            if len(doubtful) and fast is not model:
                attack_on(model, part, doubtful)
    return adversarial, broken


def _single(name, model, images, labels, epsilon, seed, numbers, batch_size):
    """An attack that is no sequence, on images that still stand; (adversarial, broken).

    numbers: of the images in their data set. Draws are tied to the attack's own name, so that a part of a
    sequence finds what the same attack finds alone.
    """

    def draws(position, part=""):
        return generator(seed, numbers[position], name, part)

    row = ATTACKS[name]
    function = registry.function_of(row.function)
    given = {"epsilon": epsilon, "draws": draws, "batch_size": batch_size}
    return function(_whole_blocks(model), images, labels, **{**row.settings, **given})


def _whole_blocks(model):
    """The model on mini-batches that are filled up to a multiple of ROWS with copies of the first image.

    Matrix products add up the rows that do not fill a block in another order. With whole blocks alone an
    image's bits do not depend on how many images there are beside it.
    """

    def logits(images):
        missing = -len(images) % ROWS
        if not missing:
            return model(images)
        copies = images[:1].detach().expand(missing, -1, -1, -1)
        return model(torch.cat([images, copies]))[: len(images)]

    return logits


@torch.no_grad()
def wrong(model, images, labels, batch_size=128):
    """(N,) bool: misclassified by the model. Raises UserError for labels that the model has no logits for."""
    parts = []
    for part, expected in zip(images.split(batch_size), labels.split(batch_size)):
        logits = model(part)
        if len(expected) and expected.max() >= logits.shape[1]:
            raise UserError(
                f"there is a label {expected.max()}, but the model has {logits.shape[1]} classes; use the"
                " data set it was trained on"
            )
        parts.append(logits.argmax(1) != expected)
    return torch.cat(parts) if parts else labels.new_zeros(0, dtype=torch.bool)

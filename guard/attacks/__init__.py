"""Attacks on a model that maps pixels in [0,1] to logits: one registry, one entry, two frozen protocols.

    from guard.attacks import attack
    adversarial = attack("pgd100", model, images, labels, epsilon=1/255, seed=0)

A new attack is one function and one row of ATTACKS. The function gets (model, images, labels, *,
epsilon, draws, batch_size, and the row's settings) for images that the model gets right, and returns
(adversarial, broken); see guard.attacks.slots for how to work only on the images that still stand.
"""

import functools
import math
from typing import NamedTuple

import torch

from guard.attacks.apgd import auto_pgd, each_target, targeted_dlr
from guard.attacks.cw import carlini_wagner
from guard.attacks.fab import fast_adaptive_boundary
from guard.attacks.gradient_signs import gradient_steps, sign_steps
from guard.attacks.prepare import prepared
from guard.attacks.square_attack import square
from guard.errors import UserError
from guard.networks.models import frozen_eval
from guard.run.seeds import generator


class Attack(NamedTuple):
    """What one name stands for. function: as above, or None for a sequence. text: for reports. norm: in
    which the result stays within epsilon, or None. parts: of a sequence, names of attacks that each work
    on what the ones before left standing.
    """

    function: object
    text: str
    norm: str | None = "L-inf"
    parts: tuple = ()


ROWS = 8  # a batch is filled up to a multiple of this; see _one
TARGETS = 9  # classes that a targeted attack tries, or all others where a model has fewer than ten


def _dlr(steps):
    return functools.partial(
        each_target, functools.partial(auto_pgd, loss=targeted_dlr), steps=steps, targets=TARGETS
    )


def _fab(steps):
    return functools.partial(each_target, fast_adaptive_boundary, steps=steps, targets=TARGETS)


ATTACKS = {
    "fgsm": Attack(
        functools.partial(sign_steps, relative_step=1.0, steps=1),
        "one step of epsilon along the gradient's sign",
    ),
    "pgd20": Attack(
        functools.partial(sign_steps, relative_step=0.25, steps=20, random_start=True),
        "PGD, 20 steps of epsilon/4, random start",
    ),
    "pgd100": Attack(
        functools.partial(sign_steps, relative_step=0.25, steps=100, random_start=True),
        "PGD, 100 steps of epsilon/4, random start",
    ),
    "pgd100-l2": Attack(
        functools.partial(gradient_steps, relative_step=0.25, steps=100),
        "PGD in L2, 100 steps of epsilon/4, random start",
        norm="L2",
    ),
    "mim": Attack(
        functools.partial(sign_steps, relative_step=1.0, steps=20, decay=1.0),
        "momentum iterative, 20 steps of epsilon, decay 1",
    ),
    "cw": Attack(
        functools.partial(carlini_wagner, c=1e-4, kappa=0.0, steps=50, learning_rate=0.01),
        "Carlini-Wagner, L2, c 1e-4, 50 steps, unbounded",
        norm=None,
    ),
    "square": Attack(functools.partial(square, queries=5000, p_init=0.8), "Square, 5000 queries, p 0.8"),
    "apgd-ce": Attack(functools.partial(auto_pgd, steps=100), "APGD on the cross-entropy, 100 steps"),
    "apgd-dlr": Attack(_dlr(100), "APGD on the targeted DLR loss, 100 steps for each of 9 targets"),
    "fab": Attack(_fab(100), "targeted FAB, 100 steps for each of 9 targets"),
    "apgd-ce-10": Attack(functools.partial(auto_pgd, steps=10), "APGD on the cross-entropy, 10 steps"),
    "apgd-dlr-10": Attack(_dlr(10), "APGD on the targeted DLR loss, 10 steps for each of 9 targets"),
    "fab-10": Attack(_fab(10), "targeted FAB, 10 steps for each of 9 targets"),
    "autoattack": Attack(
        None, "AutoAttack, version standard", parts=("apgd-ce", "apgd-dlr", "fab", "square")
    ),
    "autoattack-paper": Attack(
        None,
        "AutoAttack with 10 steps, as published",
        parts=("apgd-ce-10", "apgd-dlr-10", "fab-10", "square"),
    ),
}

# Frozen: every caller names one of these.
PROTOCOLS = {
    "paper": ("pgd100", "square", "autoattack-paper", "cw", "mim"),
    "standard": ("pgd100", "square", "autoattack", "cw", "mim"),
    "quick": ("pgd20",),
}
PROTOCOL_EPSILON = 1 / 255  # in [0,1] pixels; another epsilon makes a protocol 'custom'


def check_inputs(model, images, labels, epsilon):
    """Raises UserError for what no attack can work on: a bad epsilon, pixels outside [0,1], a model in
    train mode.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise UserError(f"epsilon is {epsilon}; it has to be a finite number of at least 0, in [0,1] pixels")
    if model.training:
        raise UserError("the model is in train mode; call model.eval() before an attack")
    if images.ndim != 4 or len(images) != len(labels):
        raise UserError(
            f"images are {tuple(images.shape)} and labels {tuple(labels.shape)}; expected (N, 3, H, W) and"
            " (N,)"
        )
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise UserError(
            f"images reach from {images.min():.3g} to {images.max():.3g}; pixels have to be in [0,1],"
            " normalization belongs into the model"
        )
    if len(labels) and labels.min() < 0:
        raise UserError(f"labels reach down to {labels.min()}; they have to be class numbers from 0")


def attack(name, model, images, labels, *, epsilon=PROTOCOL_EPSILON, seed=0, indices=None, batch_size=128):
    """Adversarial images (N, 3, H, W) in [0,1] for `images` and their true `labels`, by the attack of
    that name.

    epsilon: largest change of a pixel (of the L2 norm for pgd100-l2; cw knows none). indices: the
    images' numbers in their data set, which with seed and attack decide their random draws [0, 1, ...],
    so that nothing depends on batches or order. Images that the model gets wrong anyway come back
    unchanged. The model's weights, their gradients and its mode are untouched. Raises UserError for bad
    inputs.
    """
    return run(
        name, model, images, labels, epsilon=epsilon, seed=seed, indices=indices, batch_size=batch_size
    )[0]


def run(name, model, images, labels, *, epsilon, seed=0, indices=None, batch_size=128, known=None, done=()):
    """As `attack`, but returns (adversarial, broken): broken (N,) bool, misclassified clean or by some
    iterate of the attack.

    known: (N,) bool, images that need no attack since a part of this one is known to break them; they
    come back unchanged. done: names of those parts. The others survive them, whose draws are their own,
    so these parts are not run again.
    """
    if name not in ATTACKS:
        raise UserError(f"there is no attack '{name}'; there are {', '.join(ATTACKS)}")
    check_inputs(model, images, labels, epsilon)
    indices = range(len(images)) if indices is None else [int(i) for i in indices]
    with frozen_eval(model):
        adversarial, broken = images.clone(), wrong(model, images, labels, batch_size)
        if known is not None:
            broken |= known.to(broken.device)
        fast = prepared(model, images)
        for part in ATTACKS[name].parts or (name,):
            if part in done:
                continue
            standing = (~broken).nonzero().squeeze(1)
            # Rounding in the prepared copy may take an image for broken that the model itself still gets
            # right; it is attacked once
            # more on the model itself, so that what counts as broken is broken.
            for attacked in dict.fromkeys((fast, model)):
                if not len(standing):
                    break
                found, fell = _one(
                    part,
                    attacked,
                    images[standing],
                    labels[standing],
                    epsilon,
                    seed,
                    [indices[i] for i in standing.tolist()],
                    batch_size,
                )
                confirmed = fell & wrong(model, found, labels[standing], batch_size)
                adversarial[standing], broken[standing] = found, confirmed
                standing = standing[fell & ~confirmed]
    return adversarial, broken


def _one(name, model, images, labels, epsilon, seed, indices, batch_size):
    """A single attack on images that stand. Draws are tied to its own name, so that a part of a sequence
    is the attack itself.
    """

    def draws(position, part=""):
        return generator(seed, indices[position], name, part)

    def logits(x):
        # Matrix products sum up the rows that don't fill a block of theirs in another order; so that an
        # image's bits do not depend
        # on how many there are beside it, the batch is filled up to whole blocks.
        missing = -len(x) % ROWS
        return (
            model(torch.cat([x, x[:1].detach().expand(missing, -1, -1, -1)]))[: len(x)]
            if missing
            else model(x)
        )

    return ATTACKS[name].function(logits, images, labels, epsilon=epsilon, draws=draws, batch_size=batch_size)


@torch.no_grad()
def wrong(model, images, labels, batch_size=128):
    """(N,) bool: misclassified by the model. Raises UserError for labels that the model has no logits for."""
    parts = []
    for part, expected in zip(images.split(batch_size), labels.split(batch_size)):
        logits = model(part)
        if expected.max() >= logits.shape[1]:
            raise UserError(
                f"there is a label {expected.max()}, but the model has {logits.shape[1]} classes; use the"
                " data set it was trained on"
            )
        parts.append(logits.argmax(1) != expected)
    return torch.cat(parts) if parts else labels.new_zeros(0, dtype=torch.bool)

"""GUARD: robust dataset distillation. What a notebook needs stands here; see docs/notebook.md.

    import guard
    distilled = guard.load_distilled("runs/24/images")            a torch Dataset of (pixels, label)
    shared = guard.load_distilled("set.pt")                       the same, from a file of guard.export
    student = guard.load_network("runs/24/student/checkpoint.pt")
    pixels, labels = guard.load_images("digits")
    adversarial = guard.attack("pgd100", student, pixels, labels, epsilon=12 / 255)
    accuracies = guard.evaluate(student, pixels, labels, protocol="quick", epsilon=12 / 255)

Each name is imported when it is first used, so that commands that need no torch do not load it.
"""

import importlib

_PLACES = {
    "UserError": "guard.errors",
    "attack": "guard.attacks",
    "evaluate": "guard.library",
    "load_distilled": "guard.library",
    "load_images": "guard.library",
    "load_network": "guard.library",
    "unpack_labels": "guard.library",
}
__all__ = [
    "UserError",
    "attack",
    "evaluate",
    "load_distilled",
    "load_images",
    "load_network",
    "unpack_labels",
]


def __getattr__(name):
    if name not in _PLACES:
        raise AttributeError(f"module 'guard' has no attribute '{name}'")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__():
    return sorted({*globals(), *_PLACES})

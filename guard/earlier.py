"""What earlier versions wrote, read under today's names: a new setting makes no other work of finished
work.
"""

from dataclasses import fields

from guard import registry
from guard.settings import STAGES


def as_now(stage, found):
    """The settings in an artifact that an earlier version may have made, under today's names.

    found: what `as_dict` gave then; other names in it are left alone. What it lacks is filled in with what
    was done before there was such a setting, so that a new one does not turn finished work into other work.
    """
    made = dict(found)
    if stage == "pretrain" and "beta" in made:  # once the coefficient of three things, and h the epsilon too
        beta = made.pop("beta")
        made |= {"loss_beta": beta, "gradient_beta": beta, "trades_beta": beta}
        if made.get("adversarial") == "f":
            made["epsilon"] = made["h"]
    for row in fields(STAGES[stage]):
        before = row.metadata["before"]
        made.setdefault(row.name.rstrip("_"), row.default if before is None else before)
    return made


# They decide what is told of a network, and not the network.
TOLD_ALONE = ("evaluate_every", "val_images", "curvature_images")
# Where the settings of a stage stand in what decides its result: beside the rest, or below a name.
SETTINGS_IN_KEYS = {
    "pretrain": {"": "pretrain"},
    "recover": {"settings": "recover"},
    "relabel": {"recipe": "relabel"},
    "train": {"": "train", "labels": "relabel"},
}


def comparable(stage, key):
    """What decides a stage's result, as an earlier version may have written it, under today's names."""
    made = dict(key)
    for name, settings_of in SETTINGS_IN_KEYS.get(stage, {}).items():
        if not name:
            made = read_by_stage(settings_of, as_now(settings_of, made))
        elif isinstance(made.get(name), dict):
            made[name] = read_by_stage(settings_of, as_now(settings_of, made[name]))
    for name in (*TOLD_ALONE, "reuse_labels"):  # whether labels are used again follows from the epochs
        made.pop(name, None)
    return made


def _weighs_by(coefficient):
    """A rule: whether a teacher's regularizer is multiplied by this setting."""

    def read(found):
        row = registry.REGULARIZERS.get(found.get("regularizer"))
        return found.get("curvature") and (row is None or row.coefficient.rstrip("_") == coefficient)

    return read


def _regularized(found):
    return found.get("curvature") or found.get("gradient_regularization")


def _sees_crops(found):
    return found.get("crop") or found.get("cda")


def _takes_squared(loss):
    return loss in registry.STUDENT_LOSSES and registry.STUDENT_LOSSES[loss].takes_squared


_COEFFICIENTS = sorted({row.coefficient.rstrip("_") for row in registry.REGULARIZERS.values()})


def _cropped_with_flips(found):
    return found.get("augmentation") in ("resized-crop", "pad-crop")


# What the settings of a stage must be for another of them to be read at all.
READ_WITH = {
    "pretrain": {
        "regularizer": lambda found: found.get("curvature"),
        **{name: _weighs_by(name) for name in _COEFFICIENTS},
        "gradient_beta": lambda found: found.get("gradient_regularization"),
        "h": lambda found: found.get("curvature"),
        "curvature_every": _regularized,
        "curvature_statistics": _regularized,
        "epsilon": lambda found: found.get("adversarial") in ("f", "n"),
        "trades_beta": lambda found: found.get("adversarial") == "t",
        "flip": _cropped_with_flips,
    },
    "recover": {
        "crop_scale": _sees_crops,
        "flip": _sees_crops,
        "cda_schedule": lambda found: found.get("cda"),
        "cda_milestone": lambda found: found.get("cda"),
    },
    "relabel": {
        "crop_scale": lambda found: found.get("augmentation") == "resized-crop",
        "flip": _cropped_with_flips,
        "mix_alpha": lambda found: found.get("mix") != "none",
    },
    "train": {
        "temperature": lambda found: found.get("loss") not in ("mse", "cross-entropy"),
        "squared_temperature": lambda found: _takes_squared(found.get("loss")),
        "views_against": lambda found: found.get("adversarial_share"),
        "view_epsilon": lambda found: found.get("adversarial_share"),
        "flip": lambda found: found.get("dsa"),
        "momentum": lambda found: found.get("optimizer") == "sgd",
        "zeta": lambda found: found.get("schedule") == "cosine",
    },
}


def read_by_stage(stage, found):
    """Those of a stage's settings that count beside the others: in recover its image method reads them, and
    nothing that is switched off does. found: a dict of settings, under today's names.
    """
    rules = READ_WITH.get(stage, {})
    read = {name: value for name, value in found.items() if name not in rules or rules[name](found)}
    if stage == "recover" and found.get("method") in registry.IMAGE_METHODS:
        reading = set(registry.methods_of(found))
        limits = {row.name: row.metadata["of"] for row in fields(STAGES["recover"])}
        return {
            name: value for name, value in read.items() if not limits.get(name) or reading & {*limits[name]}
        }
    return read

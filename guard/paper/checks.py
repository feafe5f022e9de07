"""Whether a JSON object is the record of a whole run; if not, what is missing or of the wrong kind."""

import shlex

from guard.paper.plan import SCALES

FIELDS = {
    "scale": str,
    "dataset": str,
    "images per class": int,
    "arm": str,
    "seed": int,
    "images from": str,
    "labels from": str,
    "command": str,
    "record": dict,
}
# settings that tables tell; a model is a word, all others are numbers
NEEDED = {
    "pretrain": ("model", "image_size", "epochs", "batch_size", "learning_rate"),
    "recover": ("iterations", "r_bn", "step_size"),
    "relabel": ("epochs",),
    "train": ("model", "temperature"),
}
EVALUATION = {"protocols": list, "epsilon": (int, float), "images": int, "attacks": dict}


def problem_of(contents, format_name, folder):
    """What keeps an object from being the record of a run, or None. folder: name of that in which it lies,
    which is its scale's.
    """
    if contents.get("format") != format_name:
        return f"its format is {contents.get('format')!r}, not {format_name!r}"
    for name, kind in FIELDS.items():
        if not _is(contents.get(name), kind):
            return f"'{name}' is missing or of the wrong kind"
    scale = contents["scale"]
    if scale not in SCALES or scale != folder:
        return f"its scale is {scale!r} in the folder {folder!r}; scales are {', '.join(SCALES)}"
    return (
        _problem_of_command(contents["command"])
        or _problem_of_record(contents["record"])
        or _problem_of_curve(contents.get("curve"))
    )


def _problem_of_command(command):
    """It is compared with the plan's and shown to users, so it must be one of run.sh."""
    try:
        words = shlex.split(command)
    except ValueError:
        return "its command has a quote that does not end"
    return None if words[:2] == ["bash", "run.sh"] else f"its command is none of run.sh, {command!r}"


def _is(value, kind):
    """Whether a value is of a kind; True and False are no numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _problem_of_record(record):
    for stage in (*NEEDED, "evaluate student"):
        if not isinstance(record.get(stage), dict):
            return f"its record has no entry '{stage}'"
    for stage, names in NEEDED.items():
        settings = record[stage].get("settings")
        for name in names:
            kind = str if name == "model" else (int, float)
            if not isinstance(settings, dict) or not isinstance(settings.get(name), kind):
                return f"the settings of '{stage}' have no {name}, or one of the wrong kind"
    for stage in ("pretrain", "evaluate student"):
        environment = record[stage].get("environment")
        if not isinstance(environment, dict) or not isinstance(environment.get("device"), str):
            return f"its entry '{stage}' names no device"
    if not isinstance(record["pretrain"].get("results", {}), dict):
        return "the results of 'pretrain' are no object"
    if not _is(record["recover"].get("images"), int):
        return "its entry 'recover' does not say how many images there are"
    evaluated = record["evaluate student"]
    if not isinstance(evaluated.get("key", {}), dict):
        return "the key of its student's evaluation is no object"
    if not evaluated.get("complete"):
        return "the evaluation of its student is not finished"
    for name, kind in EVALUATION.items():
        if not isinstance(evaluated.get(name), kind):
            return f"the evaluation of its student has no {name}, or one of the wrong kind"
    return _problem_of_accuracies(record, "student") or _problem_of_accuracies(record, "teacher")


def _problem_of_accuracies(record, network):
    """A teacher need not be evaluated, but an accuracy needs the number of its images."""
    entry = record.get(f"evaluate {network}", {})
    attacks = entry.get("attacks", {}) if isinstance(entry, dict) else None
    if not isinstance(attacks, dict):
        return f"the evaluation of its {network} holds no attacks"
    needed = attacks or network == "student"
    if needed and not (_is(entry.get("images"), int) and entry["images"] > 0):
        return f"its {network} was evaluated on no images"
    for name, attack in attacks.items():
        if not isinstance(attack, dict) or not _is_percent(attack.get("accuracy")):
            return f"the {network}'s accuracy under {name} is no percentage"
    return None


def _problem_of_curve(curve):
    if curve is None:
        return None
    said = "its curve is no list of epsilons with as many percentages, under an attack that it names"
    if not isinstance(curve, dict) or not isinstance(curve.get("attack"), str):
        return said
    epsilons, accuracies = curve.get("epsilon"), curve.get("accuracy")
    if not isinstance(epsilons, list) or not isinstance(accuracies, list) or len(epsilons) != len(accuracies):
        return said
    return None if all(map(_is_percent, accuracies)) else said


def _is_percent(value):
    return isinstance(value, (int, float)) and 0 <= value <= 100

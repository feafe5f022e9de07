"""An experiment's numbers as Markdown."""

import math

from guard.attacks import ATTACKS, PROTOCOLS, checks, metrics
from guard.report.statistics import standard_error


def accuracy_text(accuracy, images):
    """'43.00 ± 4.95': an accuracy and its standard error, in percent; the accuracy alone where it is not
    known on how many images.
    """
    return f"{accuracy:.2f}" + (f" ± {standard_error(accuracy, images):.2f}" if images else "")


def shown_accuracy(result, attack):
    """As `accuracy_text`, of an attack in an evaluation."""
    return accuracy_text(result["attacks"][attack]["accuracy"], result.get("images"))


def accuracy_table(results):
    """A Markdown table of accuracies in percent: one row per network, columns clean and each attack that
    all of them met.

    results: name -> evaluation.
    """
    names = common_attacks(results)
    rows = [["", *names], ["---", *["---:"] * len(names)]]
    rows += [
        [network, *(shown_accuracy(result, name) for name in names)] for network, result in results.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "| " + " | ".join(_padded(cell, width) for cell, width in zip(row, widths)) + " |" for row in rows
    )


def common_attacks(results):
    """Names of the attacks, clean among them, that every one of the evaluations holds; a shared teacher
    may have met more.
    """
    first, *others = (result["attacks"] for result in results.values())
    return [name for name in first if all(name in other for other in others)]


def _padded(cell, width):
    if cell.startswith("---"):
        return "-" * (width - 1) + (":" if cell.endswith(":") else "-")
    return cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)


def how_evaluated(results):
    """On what, with which epsilon and by which protocol the networks were attacked, as a sentence; of each
    network where they were not attacked alike.
    """
    told = {
        network: (
            f"{result['images']} validation images leave, {epsilon_text(result)}, protocol"
            f" {' and '.join(result['protocols'])}"
        )
        for network, result in results.items()
    }
    first = "Accuracy in percent ± the standard error that "
    if len({*told.values()}) == 1:
        return f"{first}{next(iter(told.values()))}."
    return first + "; ".join(f"{network}: {how}" for network, how in told.items()) + "."


def epsilon_text(result):
    """'epsilon 2/255', of an evaluation."""
    return f"epsilon {result['epsilon'] * 255:.4g}/255"


def metrics_text(name, results):
    """RR, I-RR and worst case of the network `name` of these evaluations as a sentence, over the attacks that
    all of them hold; None where these are no two to compare.
    """
    common = common_attacks(results)
    if len(common) < 3:  # clean accuracy is the first
        return None
    met = results[name]["attacks"]
    if not met["clean"]["accuracy"]:
        return f"{name}: RR and I-RR undefined, since it is right on no image."
    found = metrics.of_record({**results[name], "attacks": {attack: met[attack] for attack in common}})
    known = found["worst_case"] is not None and {*PROTOCOLS["standard"]} <= {*common}
    worst = f", worst case {found['worst_case']:.2f}" if known else ""
    ratio = (
        f"RR {found['robustness_ratio']:.2f} (0 for a model that is equally robust to all attacks)"
        if math.isfinite(found["robustness_ratio"])
        else "RR undefined, since no attack costs anything"
    )
    improved = round(found["improved_robustness_ratio"], 2) + 0.0  # which makes -0 a 0
    return f"{name}: {ratio}, I-RR {improved:.2f}{worst}."


def evaluation_text(results):
    """The table, how it was made, its metrics and what its checks said, as Markdown. results: name ->
    evaluation.
    """
    lines = [accuracy_table(results), "", how_evaluated(results)]
    passed = []
    for name, result in results.items():
        measured = metrics_text(name, results)
        lines += [measured] if measured else []
        warned = checks.said(result)
        lines += [f"{name}, warning: {text}." for text in warned]
        passed += [] if warned else [checked_text(name, result)]
    return "\n".join([*lines, *passed])


def checked_text(network, result):
    """That a network's evaluation passed all checks, and by how much a pixel was changed."""
    bounded = [name for name in result["attacks"] if name in ATTACKS and ATTACKS[name].norm == "L-inf"]
    changes = [result["attacks"][name].get("largest_change", 0.0) for name in bounded]
    change = f"; largest change of a pixel {255 * max(changes):.4g}/255" if changes else ""
    return f"{network}: all checks passed{change}."


def curve_text(curve):
    """Accuracy against epsilon as a Markdown table, and whether it reaches zero. curve: as curve.json."""
    lines = ["| epsilon | accuracy |", "| ---: | ---: |"]
    lines += [
        f"| {epsilon * 255:.4g}/255 | {accuracy_text(accuracy, curve.get('images'))} |"
        for epsilon, accuracy in zip(curve["epsilon"], curve["accuracy"])
    ]
    return "\n".join([*lines, "", *said_of_curve(curve)])


def said_of_curve(curve):
    """Whether the accuracy reaches zero, and what the checks said, a sentence each."""
    return [reaches_zero_text(curve), *(f"Warning: {text}." for text in curve.get("warnings", ()))]


def reaches_zero_text(curve):
    """Whether the accuracy reaches zero at the largest epsilon, as it must, as a sentence."""
    if curve["reaches_zero"]:
        return "At the largest epsilon the accuracy reaches zero, as it must."
    return (
        "At the largest epsilon the accuracy is not zero yet: add a larger one. If it stays, the attack or"
        " the gradients are broken."
    )


def curvature_text(measured):
    """What was measured of the curvature of the teacher's loss, as a sentence."""
    return (
        f"Curvature of the teacher's loss, mean over {measured['images']} validation images, per squared"
        f" normalized-image unit: gradient change over a step of {measured['h']} along the gradient"
        f" {measured['gradient_change']:.4g}, along the gradient {measured['along_z']:.4g}, largest"
        f" eigenvalue {measured['largest_eigenvalue']:.4g}."
    )


def where_text(entry):
    """How long a stage took, where, and with what, as a sentence. entry: that of a stage in a record."""
    where = entry["environment"]
    return (
        f"{entry['seconds']:.1f} seconds on {where['device']}, torch {where['torch']}, commit"
        f" {where['commit']}, seed {entry['seed']}."
    )

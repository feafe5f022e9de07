"""An experiment's numbers as Markdown."""

import math

from guard.attacks import metrics


def accuracy_table(results):
    """A Markdown table of accuracies in percent: one row per network, columns clean and each attack that
    all of them met.

    results: name -> evaluation.
    """
    names = common_attacks(results)
    rows = [["", *names], ["---", *["---:"] * len(names)]]
    rows += [
        [network, *(f"{result['attacks'][name]['accuracy']:.2f}" for name in names)]
        for network, result in results.items()
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
    return cell.rjust(width) if cell.replace(".", "").isdigit() else cell.ljust(width)


def evaluation_text(results):
    """The table, how it was made, its metrics and warnings, as Markdown. results: name -> evaluation."""
    first = next(iter(results.values()))
    lines = [
        accuracy_table(results),
        "",
        (
            f"Accuracy in percent on {first['images']} validation images, epsilon"
            f" {first['epsilon'] * 255:.4g}/255, protocol {' and '.join(first['protocols'])}."
        ),
    ]
    for name, result in results.items():
        if len(result["attacks"]) > 1:
            found = metrics.of_record(result)
            worst = f", worst case {found['worst_case']:.2f}" if found["worst_case"] is not None else ""
            ratio = (
                f"RR {found['robustness_ratio']:.2f} (0 for a model that is equally robust to all attacks)"
                if math.isfinite(found["robustness_ratio"])
                else "RR undefined, since no attack costs anything"
            )
            lines.append(f"{name}: {ratio}, I-RR {found['improved_robustness_ratio']:.2f}{worst}.")
        lines += [f"{name}, warning: {text}." for text in result["warnings"]]
    return "\n".join(lines)


def curve_text(curve):
    """Accuracy against epsilon as a Markdown table, and whether it reaches zero."""
    lines = ["| epsilon | accuracy |", "| ---: | ---: |"]
    lines += [
        f"| {epsilon * 255:.4g}/255 | {accuracy:.2f} |"
        for epsilon, accuracy in zip(curve["epsilon"], curve["accuracy"])
    ]
    if curve["reaches_zero"]:
        return "\n".join([*lines, "", "At the largest epsilon the accuracy reaches zero, as it must."])
    return "\n".join(
        [
            *lines,
            "",
            (
                "At the largest epsilon the accuracy is not zero yet: add a larger one. If it stays, the"
                " attack or the gradients are broken."
            ),
        ]
    )

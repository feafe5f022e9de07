"""Draws the two pictures of README.md beside this file.

python -m docs.pictures.draw clean-against-robust      from results/recipe/digits.jsonl
python -m docs.pictures.draw distilled FOLDER          from the images that docs/findings.md tells how to make
"""

import sys
from pathlib import Path
from statistics import mean, stdev

import torch

from guard.data import find, images
from guard.distilled import image_folder
from guard.paper import records
from guard.report import plots

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "results"
ARMS = {"sre2l": "plain", "guard": "GUARD", "guard-batch": "GUARD, batch statistics", "nfgsm": "N-FGSM"}
COLOURS = {
    "plain": "black",
    "GUARD": "#d62728",
    "GUARD, batch statistics": "#8b0000",
    "N-FGSM": "#1f77b4",
}
MARKS = {"student": "o", "teacher": "^"}
NAMES = {
    ("student", "plain"): "student, SRe2L",
    ("student", "GUARD"): "student, SRe2L with GUARD",
    ("student", "GUARD, batch statistics"): "student, the same by batch statistics",
    ("student", "N-FGSM"): "student, SRe2L of N-FGSM teacher",
    ("teacher", "plain"): "teacher, plain",
    ("teacher", "GUARD"): "teacher, GUARD",
    ("teacher", "GUARD, batch statistics"): "teacher, GUARD by batch statistics",
    ("teacher", "N-FGSM"): "teacher, N-FGSM",
}
ATTACK = "pgd100"


# ---- clean against robust accuracy ---------------------------------------------------------------


def clean_against_robust():
    """A small mark for each seed, a large one with its deviations for the mean over seeds."""
    arms = {name: [] for name in ARMS.values()}
    for run in records.read(RESULTS):
        if run.scale == "recipe" and run.arm in ARMS:
            arms[ARMS[run.arm]].append(run.record)
    figure, axes = plots.figure(8.5, 3.8)
    for network, arm in NAMES:
        _runs(axes, arm, network, [record[f"evaluate {network}"] for record in arms[arm]])
    first = arms["GUARD"][0]["evaluate student"]
    epsilon = f"{first['epsilon'] * 255:.4g}/255"
    axes.set(xlim=(88, 100), ylim=(0, 95))
    axes.set_xlabel("clean accuracy, %", fontsize=12)
    axes.set_ylabel(f"accuracy under {ATTACK.upper()}, %", fontsize=12)
    axes.set_title(f"Handwritten digits, epsilon {epsilon}, {_seeds(arms)} seeds", fontsize=13)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=10)
    plots.save(figure, HERE / "clean-against-robust.png")


def _seeds(arms):
    """How many runs the arms have: a number, or two where they differ. arms: name -> records."""
    counts = [len(found) for found in arms.values()]
    fewest, most = min(counts), max(counts)
    return str(most) if fewest == most else f"{fewest} to {most}"


def _runs(axes, arm, network, evaluations):
    """The runs of one kind of network. evaluations: one per seed."""
    clean = [each["attacks"]["clean"]["accuracy"] for each in evaluations]
    robust = [each["attacks"][ATTACK]["accuracy"] for each in evaluations]
    look = {"color": COLOURS[arm], "marker": MARKS[network], "linestyle": "none"}
    if network == "teacher":
        look["markerfacecolor"] = "white"
    axes.plot(clean, robust, markersize=4, alpha=0.45, **look)
    axes.errorbar(
        mean(clean),
        mean(robust),
        xerr=stdev(clean),
        yerr=stdev(robust),
        markersize=9,
        capsize=3,
        label=NAMES[network, arm],
        **look,
    )


# ---- distilled images ----------------------------------------------------------------------------

ROWS = (  # title, folder of the images within FOLDER
    ("digits, SRe2L", "digits-sre2l"),
    ("digits, GUARD", "digits-guard"),
    ("CIFAR-10, SRe2L", "cifar10-sre2l"),
    ("CIFAR-10, GUARD", "cifar10-guard"),
)
SIDE, GAP = 32, 2  # pixels of an image and between two


def distilled(folder):
    """Rows of one image per class: real digits, then what was distilled with and without GUARD."""
    rows = [("digits, real", _first_of_each_class(_real_digits()))]
    for title, name in ROWS:
        held = image_folder.load_distilled(Path(folder) / name / "images")
        rows.append((title, _first_of_each_class(held)))
    figure, axes = plots.figure(8.4, 3.9, len(rows), 1)
    for place, (title, pixels) in zip(axes, rows, strict=True):
        place.imshow(_beside_each_other(pixels), interpolation="nearest")
        place.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=12, labelpad=8)
        place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)
    plots.save(figure, HERE / "distilled.png")


def _real_digits():
    return images.load(find.find("digits", "data/raw", "train"), 16)


def _first_of_each_class(held):
    """(10, 3, S, S) uint8."""
    return torch.stack([held.pixels[held.labels == label][0] for label in range(10)])


def _beside_each_other(pixels):
    """(N, 3, S, S) uint8 to one row of pixels (SIDE, width, 3), each image SIDE high."""
    larger = SIDE // pixels.shape[-1]
    pixels = pixels.repeat_interleave(larger, 2).repeat_interleave(larger, 3)
    row = torch.full((SIDE, len(pixels) * (SIDE + GAP) - GAP, 3), 255, dtype=torch.uint8)
    for number, image in enumerate(pixels):
        left = number * (SIDE + GAP)
        row[:, left : left + SIDE] = image.permute(1, 2, 0)
    return row.numpy()


PICTURES = {"clean-against-robust": clean_against_robust, "distilled": distilled}

if __name__ == "__main__":
    PICTURES[sys.argv[1]](*sys.argv[2:])

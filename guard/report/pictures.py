"""Pictures and plots of an experiment."""

import numpy

from guard.data.augment import as_bytes
from guard.report import plots
from guard.report.statistics import standard_error
from guard.report.text import common_attacks, epsilon_text

SHOWN_CLASSES, SHOWN_IMAGES = 20, 10  # rows and columns of images.png at most
LETTER = 0.095  # inches that a letter of a title or a class's name takes


def image_grid(held, path):
    """A grid of distilled images (Packed): a row per class, its first images from left to right."""
    shown = range(min(len(held.classes), SHOWN_CLASSES))
    of_classes = [as_bytes(held.pixels[held.labels == label][:SHOWN_IMAGES]) for label in shown]
    rows = [pixels.permute(0, 2, 3, 1).numpy() for pixels in of_classes]
    size, columns = held.pixels.shape[2], max(len(row) for row in rows)
    gap = max(1, size // 16)
    grid = numpy.full((len(rows) * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, numpy.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            grid[i * (size + gap) : i * (size + gap) + size, j * (size + gap) : j * (size + gap) + size] = (
                image
            )
    hidden = (
        f", first {SHOWN_CLASSES} of {len(held.classes)} classes" if len(held.classes) > SHOWN_CLASSES else ""
    )
    title = f"Distilled images, a row per class{hidden}"
    of_names = 0.6 + LETTER * max(len(held.classes[label]) for label in shown)
    width = max(of_names + 0.85 * columns, 0.2 + LETTER * len(title))
    figure, axes = plots.figure(width, 0.4 + 0.8 * len(rows))
    axes.imshow(grid, interpolation="nearest")
    places = [i * (size + gap) + size / 2 for i in range(len(rows))]
    # Between dollars matplotlib would read formulas.
    axes.set_yticks(places, [held.classes[label] for label in shown], parse_math=False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10)
    plots.save(figure, path)


def curves(histories, path):
    """Loss and accuracy on val against the epoch, for each network that was trained."""
    columns = max(len(histories), 1)
    figure, axes = plots.figure(5 * columns, 5.5, 2, columns, squeeze=False)
    for column, (name, history) in enumerate(histories.items()):
        for row, (field, unit) in enumerate((("loss", "loss"), ("val accuracy", "accuracy on val, %"))):
            points = [(entry["epoch"], entry[field]) for entry in history if field in entry]
            if points:
                axes[row][column].plot(*zip(*points), marker="." if len(points) < 40 else None)
            axes[row][column].set(xlabel="epoch", ylabel=unit, title=name if row == 0 else None)
            axes[row][column].xaxis.get_major_locator().set_params(integer=True)
            axes[row][column].grid(alpha=0.3)
    plots.save(figure, path)


def bars(results, path):
    """Accuracy clean and under each attack with its standard error, a group of bars per attack."""
    names = common_attacks(results)
    figure, axes = plots.figure(1.5 + 1.4 * len(names), 4)
    width = 0.8 / len(results)
    for number, (network, result) in enumerate(results.items()):
        places = numpy.arange(len(names)) + (number - (len(results) - 1) / 2) * width
        accuracies = [result["attacks"][name]["accuracy"] for name in names]
        errors = [standard_error(accuracy, result["images"]) for accuracy in accuracies]
        drawn = axes.bar(places, accuracies, width, yerr=errors, capsize=2, label=network)
        axes.bar_label(drawn, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    told = {network: epsilon_text(result) for network, result in results.items()}
    if len({*told.values()}) == 1:
        within = next(iter(told.values()))
    else:
        within = ", ".join(f"{network} {epsilon}" for network, epsilon in told.items())
    axes.set(ylim=(0, 109), ylabel="accuracy, %", title=f"Accuracy under attack, {within}")
    axes.legend(loc="upper right")
    plots.save(figure, path)


def epsilon_curve(curve, path):
    """Accuracy against epsilon, with its standard error where curve['images'] says of how many images."""
    figure, axes = plots.figure(6, 4)
    images = curve.get("images")
    errors = [standard_error(accuracy, images) for accuracy in curve["accuracy"]] if images else None
    epsilons = [epsilon * 255 for epsilon in curve["epsilon"]]
    axes.errorbar(epsilons, curve["accuracy"], yerr=errors, capsize=3, marker="o")
    axes.set(
        xlabel="epsilon, 1/255",
        ylabel="accuracy, %",
        ylim=(0, 102),
        title=f"Accuracy under {curve['attack']}",
    )
    axes.grid(alpha=0.3)
    plots.save(figure, path)

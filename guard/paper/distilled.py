"""Draws the first distilled images of GUARD above those of SRe2L, from the image folders of the runs.

    python -m guard.paper.distilled --scale cpu

The folders are those that `bash results/reproduce.sh` leaves under its output root. For each data set of
which both arms are there it writes distilled-SCALE-DATASET.png.
"""

import sys
from pathlib import Path

from guard import cli, ending
from guard.errors import UserError
from guard.paper import plan
from guard.paper.groups import PLAIN, ROBUST
from guard.paper.markdown import scale_text, size_text

CLASSES = 10  # shown, at most
CAPTION = "Distilled images"


def main(argv):
    parser = cli.Parser(prog="python -m guard.paper.distilled", description=__doc__.split("\n")[0])
    parser.add_argument("--scale", choices=plan.SCALES, default="cpu", help="of the runs [cpu]")
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        default=Path("runs/reproduce"),
        metavar="DIR",
        help="output root of results/reproduce.sh, which holds the runs [runs/reproduce]",
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=Path("docs/pictures"),
        metavar="DIR",
        help="folder for the pictures [docs/pictures]",
    )
    options = parser.parse_args(argv)

    def work():
        for path in write(options.scale, options.output / options.scale, options.to):
            print(path)

    ending.run(work)


def write(scale, output, folder):
    """Draws the picture of every data set into `folder`, from the runs under `output`; returns the paths.
    Raises UserError where there is no data set of which both arms are there, and for damaged images.
    """
    drawn = []
    for dataset in plan.SCALES[scale]:
        strips = _strips(scale, dataset, output)
        if strips:
            drawn.append(Path(folder) / f"distilled-{scale}-{dataset}.png")
            _draw(strips, f"{CAPTION}: {dataset}, {scale_text(scale)}", drawn[-1])
    if not drawn:
        raise UserError(
            f"{output} holds no images of both {ROBUST} and {PLAIN}; make some first:"
            f" bash results/reproduce.sh TABLE --scale {scale}"
        )
    return drawn


def _strips(scale, dataset, output):
    """{run: its strip of images} with GUARD above SRe2L, for each size of which both are there; the first
    seed that has both.
    """
    tables = [
        table for table in plan.TABLES if scale in plan.scales_of(table) and dataset in plan.TABLES[table]
    ]
    sizes, found = set(), {}
    for table in tables:
        sizes |= {run.images_per_class for run in plan.runs_of(table, scale) if run.dataset == dataset}
    for size in sorted(sizes):
        for seed in range(100):
            pair = [plan.PlannedRun(dataset, size, arm, arm, seed) for arm in (ROBUST, PLAIN)]
            if all((output / run.name / "images").is_dir() for run in pair):
                found |= {run: strip(output / run.name / "images") for run in pair}
                break
    return found


def strip(folder):
    """The first distilled image of each of the first classes, side by side: uint8, height x width x 3."""
    import torch

    from guard.distilled import image_folder

    held = image_folder.load_distilled(folder)
    shown = range(min(CLASSES, len(held.classes)))
    firsts = [held.pixels[held.labels == label][0] for label in shown]  # each 3 x side x side
    return torch.cat(firsts, dim=2).permute(1, 2, 0).numpy()


def _draw(strips, title, path):
    from guard.report import plots

    width = 10.0
    heights = [width * strip.shape[0] / strip.shape[1] + 0.35 for strip in strips.values()]
    figure, axes = plots.figure(
        width, sum(heights) + 0.6, len(strips), 1, squeeze=False, height_ratios=heights
    )
    for place, (run, strip) in zip(axes[:, 0], strips.items(), strict=True):
        place.imshow(strip, interpolation="nearest")
        words = f"{run.arm}, {size_text(run.images_per_class)}, seed {run.seed}"
        place.set_title(words, fontsize=11, loc="left")
        place.axis("off")
    figure.suptitle(title, fontsize=12)
    plots.save(figure, path)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Turns an experiment's folder into one file to share: images, labels, and where they come from.

    python -m guard.export runs/24 --output set.pt

The file holds plain tensors and values alone. docs/usage.md says which.
"""

import sys
from pathlib import Path

from guard import cli, ending
from guard.errors import UserError


def main(argv):
    parser = cli.Parser(prog="python -m guard.export", description=__doc__.split("\n")[0])
    parser.add_argument("run", metavar="RUN", help="folder of an experiment, such as runs/24")
    parser.add_argument("--output", "-o", required=True, type=Path, metavar="FILE", help="file to make, *.pt")
    parser.add_argument(
        "--licence",
        default="",
        metavar="TEXT",
        help="of the images [that of the data set that they were made from]",
    )
    parser.add_argument("--images-only", action="store_true", help="leave the soft labels out")
    parser.add_argument("--force", action="store_true", help="replace a file that is there already")
    options = parser.parse_args(argv)
    ending.run(
        export,
        options.run,
        options.output,
        licence=options.licence,
        images_only=options.images_only,
        force=options.force,
    )


def export(run, output, *, licence="", images_only=False, force=False):
    """Writes the file `output` of the experiment in folder `run`, and prints a line that says what is in it.

    licence: of the images, in words. images_only: leave the soft labels out. force: replace a file. Raises
    UserError for an output that may not be written, and for an experiment that is not finished.
    """
    if output.suffix != ".pt":
        raise UserError(f"{output} does not end in .pt; name a file that does")
    if output.exists() and not force:
        raise UserError(f"{output} is there already; name another file, or replace it with --force")

    from guard.distilled import shared_set
    from guard.run import storage

    storage.check_writable(output)
    made = shared_set.of_experiment(run, licence=licence, images_only=images_only)
    shared_set.save(made, output)
    images, size = len(made["data"][0][1]), made["image_size"]
    print(
        f"export: {images} images of {size}x{size} pixels in {len(made['classes'])} classes,"
        f" {_labels_text(made['soft_labels'], run, images_only)}; {output.stat().st_size / 1e6:.1f} MB,"
        f" in {output}"
    )


def _labels_text(labels, run, images_only):
    """What came of the soft labels, in words."""
    if labels:
        return f"with {len(labels['epochs'])} epochs of soft labels"
    return "without soft labels" if images_only else f"without soft labels, as there are none in {run}/labels"


if __name__ == "__main__":
    main(sys.argv[1:])

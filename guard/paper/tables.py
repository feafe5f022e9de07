"""results/TABLES.md: what was found, the published tables with our numbers beside them, and our own tables,
from the files in results/ alone.
"""

from pathlib import Path

from guard.paper import (
    environment,
    figures,
    findings,
    full_size,
    groups,
    our_tables,
    overhead,
    published,
    published_tables,
    records,
    swap,
    variations,
)
from guard.paper.markdown import heading
from guard.run.storage import replacing

INTRODUCTION = """\
# Published numbers and ours

Written by `python -m guard.report` from the records in this folder; do not edit it by hand. Accuracies are
those of the student, in percent. Ours are mean ± standard deviation over runs that differ in their seeds
alone; where the column "runs" says 1, they are ± the standard error that the number of images leaves, which
knows nothing of other seeds: of those attacked, or of all of them for "clean, all". The published numbers
come without an interval. A dash stands where there is no number.
"""
OF_FIGURES = """\
Error bars: standard deviation over seeds, or, of a single run, the standard error that its number of images
leaves.
"""


def write(results):
    """Writes TABLES.md and figures/ in the folder `results` again; returns what to print."""
    results = Path(results)
    gathered = groups.gather(records.read(results))
    told = text(results, gathered)
    points = published.points(results, 10)
    drawn = figures.write(variations.others(gathered), results / figures.FOLDER, points)
    with replacing(results / "TABLES.md") as temporary:
        temporary.write_text(told)
    return f"{results / 'TABLES.md'}, {len(drawn)} figures in {results / figures.FOLDER}"


def text(results, gathered):
    """The contents of TABLES.md. gathered: the groups of the runs in the folder `results`."""
    results = Path(results)
    numbers, plain = published.read(results), variations.others(gathered)
    lines = [
        INTRODUCTION,
        *findings.section(gathered),
        *published_tables.section(numbers, plain, results),
        *our_tables.section("recipe", plain, results),
        *full_size.section(plain, results),
        *our_tables.section("cpu", plain, results),
        *our_tables.standard(plain),
        *swap.section(plain, results),
        *variations.section(gathered, results),
        *overhead.section(numbers, results),
        *_figures(plain),
        *environment.section(gathered, results),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _figures(gathered):
    planned = figures.planned(gathered)
    if not planned:
        return []
    shown = [f"![{caption}]({figures.FOLDER}/{name})\n" for name, (caption, _) in planned.items()]
    return [heading(2, "Figures"), OF_FIGURES, *shown]

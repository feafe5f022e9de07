"""Numbers of recorded runs (rows as of guard.report.page.recorded), and the words around them."""

from urllib.parse import quote

from guard.report.page.markup import Cell
from guard.report.page.recorded import scale_text
from guard.report.statistics import average, standard_error

STRONGEST = ("pgd100", "pgd20")  # the first of these that a size's runs met stands for robustness
UNCERTAIN = (
    "± is the standard deviation over seeds; of a single run, the standard error that its number of"
    " validation images leaves."
)


def size(row):
    """What rows that may be compared share."""
    return row["scale"], row["dataset"], row["images per class"]


def strongest(rows):
    """The attack that stands for robustness among rows of one size."""
    met = {name for row in rows for run in row["runs"] for name in run["student"]}
    return next((name for name in STRONGEST if name in met), STRONGEST[-1])


def accuracy(row, attack, network="student"):
    """(mean, uncertainty) in percent of a row, or None where a run did not meet the attack."""
    values = [run[network].get(attack) for run in row["runs"]]
    if None in values:
        return None
    return average(values, standard_error(values[0], row["runs"][0]["images"]))


# ---- words -----------------------------------------------------------------------------------------


def number(found, form=".2f"):
    """A cell '57.12 ± 0.50' from (mean, uncertainty or None), sorted by the mean; a dash for None."""
    if found is None:
        return Cell("-", "")
    middle, deviation = found
    shown = f"{middle:{form}}" + (f" ± {deviation:{form.lstrip('+')}}" if deviation is not None else "")
    return Cell(shown, f"{middle:.6g}")


def percent(name, found):
    middle, deviation = found
    return f"{name} {middle:.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "") + " %"


def per_class(counts):
    """'1 image per class', '1, 5 images per class'."""
    told = ", ".join(map(str, counts))
    return f"{told} image{'' if told == '1' else 's'} per class"


def epsilon(row):
    """Within which a row was attacked: '1/255'."""
    return f"{row['runs'][0]['epsilon'] * 255:.4g}/255"


def link(run):
    """Where a run's record is, relative to the page."""
    return quote(run["file"])


def told(row, *measured):
    """What a mark of a row shows on hover."""
    first, seeds = row["runs"][0], [str(run["seed"]) for run in row["runs"]]
    return "\n".join(
        [
            f"{row['arm']}, {per_class([row['images per class']])}",
            *measured,
            (
                f"{row['dataset']}, {scale_text(row['scale'])}, epsilon {epsilon(row)},"
                f" {first['images']} validation images"
            ),
            f"seed{'' if len(seeds) == 1 else 's'} {', '.join(seeds)}; record: {first['place']}",
        ]
    )

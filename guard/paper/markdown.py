"""Tables, numbers and sizes as words, for Markdown and titles."""

from decimal import ROUND_HALF_UP, Decimal

MISSING = "-"
_SCALE_TEXTS = {
    "paper": "published size",
    "recipe": "the recipe's size",
    "full-cpu": "all of CIFAR-10",
    "cpu": "CPU size",
}


def points(value, places, sign=""):
    """'12.3', and '+12.3' where `sign` is that: rounded half away from zero, as one rounds by hand; of a mean
    of accuracies that lies halfway the float is a little off.
    """
    rounded = Decimal(f"{value:.9f}").quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    return f"{rounded:{sign}f}"


def number(found, sign=""):
    """'57.12 ± 0.50' from a mean and its uncertainty in points, '57.12' where there is none, a dash where
    there is no mean.
    """
    return _with_uncertainty(found, lambda mean: points(mean, 2, sign), lambda spread: points(spread, 2))


def measure(found, form):
    """As `number`, of what is no accuracy; form: such as '.3g'."""
    return _with_uncertainty(found, lambda mean: f"{mean:{form}}", lambda spread: f"{spread:{form}}")


def _with_uncertainty(found, of_mean, of_uncertainty):
    if found is None:
        return MISSING
    mean, uncertainty = found
    return of_mean(mean) + ("" if uncertainty is None else f" ± {of_uncertainty(uncertainty)}")


def table(header, rows, left):
    """Lines of a table whose first `left` columns are words and whose others are numbers."""
    rules = ["---"] * left + ["---:"] * (len(header) - left)
    return ["| " + " | ".join(row) + " |" for row in (header, rules, *rows)]


def heading(level, title):
    return f"{'#' * level} {title}\n"


def scale_text(scale):
    return _SCALE_TEXTS[scale]


def size_text(images_per_class):
    return f"{images_per_class} image{'s' * (images_per_class != 1)} per class"

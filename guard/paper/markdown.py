"""Tables, numbers and sizes as words, for Markdown and titles."""

MISSING = "-"
_SCALE_TEXTS = {
    "paper": "published size",
    "recipe": "the recipe's size",
    "full-cpu": "all of CIFAR-10",
    "cpu": "CPU size",
}


def number(found, form=".2f"):
    """'57.12 ± 0.50' from a mean and its uncertainty, '57.12' where there is none, a dash where there is no
    mean.
    """
    if found is None:
        return MISSING
    mean, uncertainty = found
    return f"{mean:{form}}" + (f" ± {uncertainty:{form.lstrip('+')}}" if uncertainty is not None else "")


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

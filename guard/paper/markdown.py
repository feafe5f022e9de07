"""Tables, numbers and sizes as words, for Markdown and titles."""

MISSING = "-"


def number(found, form=".2f"):
    """'57.12 ± 0.50' from a mean and a standard deviation, '57.12' where there is one run, a dash where
    there is none.
    """
    if found is None:
        return MISSING
    mean, deviation = found
    return f"{mean:{form}}" + (f" ± {deviation:{form.lstrip('+')}}" if deviation is not None else "")


def table(header, rows, left):
    """Lines of a table whose first `left` columns are words and whose others are numbers."""
    rules = ["---"] * left + ["---:"] * (len(header) - left)
    return ["| " + " | ".join(row) + " |" for row in (header, rules, *rows)]


def heading(level, title):
    return f"{'#' * level} {title}\n"


def scale_text(scale):
    return "published size" if scale == "paper" else "CPU size"


def size_text(images_per_class):
    return f"{images_per_class} image{'s' * (images_per_class != 1)} per class"

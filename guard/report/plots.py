"""How every plot starts and ends: drawn without a screen, written whole or not at all, the same bits
from the same numbers.
"""

import warnings

from guard.run.storage import replacing


def figure(width, height, rows=1, columns=1, **options):
    """A figure of that many inches and its axes; options as of matplotlib's subplots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width, height), dpi=120, layout="constrained", **options)


def save(drawn, path):
    from matplotlib import pyplot

    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names in scripts that the font has not
        drawn.savefig(
            temporary, format="png", metadata={"Software": None}
        )  # else matplotlib's version is part of the file
    pyplot.close(drawn)

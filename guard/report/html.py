"""Pages to look at: one self-contained report.html for an experiment, or for all of results/."""

from pathlib import Path

from guard.report.page import experiment as experiment_page
from guard.report.page import results as results_page
from guard.run import storage

NAME = "report.html"


def write_experiment(folder):
    """Writes report.html into an experiment's folder; returns its path.

    Raises UserError without a finished evaluation or images, or where it cannot be written.
    """
    return _write(Path(folder) / NAME, experiment_page.page_of(folder))


def write_results(results):
    """Writes report.html into the folder `results`; returns its path. Raises UserError for records that
    are none, or where it cannot be written.
    """
    return _write(Path(results) / NAME, results_page.page_of(results))


def _write(path, contents):
    with storage.replacing(path) as temporary:
        temporary.write_text(contents, encoding="utf-8", errors="backslashreplace")  # names of any bytes
    return path

"""How sure an accuracy is."""

from math import sqrt
from statistics import mean, stdev


def standard_error(accuracy, images):
    """The standard error that so many images leave to an accuracy, both in percent (points): that of a
    share, sqrt(p (1 - p) / n).
    """
    return sqrt(max(accuracy * (100 - accuracy), 0) / images)


def average(values, error=None):
    """(mean, uncertainty): the standard deviation over several values, and `error` for a single one. None
    where a value is missing, as a mean over the others would mix.
    """
    if not values or any(value is None for value in values):
        return None
    return mean(values), stdev(values) if len(values) > 1 else error

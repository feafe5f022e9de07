"""How sure an accuracy is."""

from math import sqrt


def standard_error(accuracy, images):
    """The standard error that so many images leave to an accuracy, both in percent (points): that of a
    share, sqrt(p (1 - p) / n).
    """
    return sqrt(max(accuracy * (100 - accuracy), 0) / images)

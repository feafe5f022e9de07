"""Summary metrics of robustness benchmarks.

They are made of the clean accuracy c and the accuracies a under the attacks, all in percent. Where c is 0
every metric is undefined and comes as NaN.
"""

import math
from statistics import mean

UNDEFINED = float("nan")


def robustness_ratio(clean, attacked):
    """RR = 100 (1 - (c - mean a) / (c - min a)), as published.

    Pathology: it compares the mean loss with the worst one. So a model that is equally robust to all attacks
    has RR 0 however robust it is, also one that loses everything to every attack. Where no attack costs
    anything (c = min a) it is undefined: NaN.
    """
    worst_loss = clean - min(attacked)
    if not worst_loss:
        return UNDEFINED
    return 100 * (1 - (clean - mean(attacked)) / worst_loss)


def improved_robustness_ratio(clean, attacked):
    """I-RR = 100 (1 - (c - mean a)(c - min a) / c^2), as published.

    It is 100 where no attack costs anything, and 0 where all cost everything. Pathology: both losses are
    relative to c, so a model with a low clean accuracy that it keeps scores as high as an accurate one. And
    it is quadratic, so halving every loss more than halves the distance to 100.
    """
    if not clean:
        return UNDEFINED
    return 100 * (1 - (clean - mean(attacked)) * (clean - min(attacked)) / clean**2)


def drop_rates(clean, attacked):
    """(c - a) / c for each attack: the share of the clean accuracy that it takes.

    Pathology: a model that is always wrong has none.
    """
    if not clean:
        return [UNDEFINED for _ in attacked]
    return [(clean - accuracy) / clean for accuracy in attacked]


def of_record(result):
    """All metrics of an evaluation's record, over the attacks that it holds.

    result: as `guard.attacks.robustness.evaluate` returns it. Returns {'robustness_ratio',
    'improved_robustness_ratio', 'drop_rate': {attack: ...}, 'worst_case'}. The last, the share of images that
    survive clean and every attack, is the record's own, since accuracies alone do not tell it.
    """
    accuracies = {name: attack["accuracy"] for name, attack in result["attacks"].items()}
    clean = accuracies.pop("clean")
    attacked = list(accuracies.values())
    return {
        "robustness_ratio": robustness_ratio(clean, attacked),
        "improved_robustness_ratio": improved_robustness_ratio(clean, attacked),
        "drop_rate": dict(zip(accuracies, drop_rates(clean, attacked))),
        "worst_case": result["worst_case"],
    }


# ---- of distilled sets (DD-Ranking, Li et al. 2025) ----------------------------------------------
# Accuracies in percent, as above. DD-Ranking's formulas want them as fractions: the exponential of a percent
# is beyond all bounds.


def hard_label_recovery(full, distilled):
    """HLR: what a student loses, in points, by hard labels of the distilled images instead of all data."""
    return full - distilled


def improvement_over_random(distilled, random):
    """IOR: what distilled images give, in points, beyond as many random training images, labelled alike."""
    return distilled - random


def label_robust_score(recovery, improvement, weight=0.5):
    """LRS of HLR and IOR, both in points: 100 (e^a - 1/e) / (e - 1/e), a = (w IOR - (1 - w) HLR) / 100.

    It is between 0 and 100, and 26.9 for what is as good as all data and no better than random images.
    """
    return _scaled((weight * improvement - (1 - weight) * recovery) / 100)


def augmentation_robust_score(with_views, without_views, weight=0.5):
    """ARS of two improvements over random images, in points, with augmentation and without: as LRS with a =
    (w with + (1 - w) without) / 100.
    """
    return _scaled((weight * with_views + (1 - weight) * without_views) / 100)


def _scaled(fraction):
    return 100 * (math.exp(fraction) - math.exp(-1)) / (math.e - math.exp(-1))

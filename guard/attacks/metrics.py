"""Summary metrics of robustness benchmarks.

They are made of the clean accuracy c and the accuracies a under the attacks, all in percent. Where c is 0
every metric is undefined and comes as NaN.
"""

from statistics import mean

UNDEFINED = float("nan")


def robustness_ratio(clean, attacked):
    """RR = 100 (1 - (c - mean a) / (c - min a)), as published.

    Pathology: it compares the mean loss with the worst one. So a model that loses everything to every attack
    and a model that loses nothing to any have the same RR, and a model that is equally robust to all attacks
    has RR 0 however robust it is. Where no attack costs anything (c = min a) it is undefined: NaN.
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

"""Summary metrics of robustness benchmarks, from clean accuracy and the accuracies under attack, all in
percent.

c is the clean accuracy, a the accuracies under the attacks. Where c is 0 every metric is undefined and
comes as NaN.
"""

from statistics import mean


def robustness_ratio(clean, attacked):
    """RR = 100 (1 - (c - mean a) / (c - min a)), as published.

    Pathology: it compares the mean loss with the worst one, so a model that loses everything to every
    attack and a model that loses nothing to any have the same RR, and a model that is equally robust to
    all attacks has RR 0 however robust it is. Where no attack costs anything (c = min a) it is
    undefined: NaN.
    """
    worst = clean - min(attacked)
    return 100 * (1 - (clean - mean(attacked)) / worst) if worst else float("nan")


def improved_robustness_ratio(clean, attacked):
    """I-RR = 100 (1 - (c - mean a)(c - min a) / c^2), as published.

    100 where no attack costs anything, 0 where all cost everything. Pathology: both losses are relative
    to c, so a model with a low clean accuracy that it keeps scores as high as an accurate one; and it is
    quadratic, so halving every loss more than halves the distance to 100.
    """
    return (
        100 * (1 - (clean - mean(attacked)) * (clean - min(attacked)) / clean**2) if clean else float("nan")
    )


def drop_rates(clean, attacked):
    """(c - a) / c for each attack: the share of the clean accuracy that it takes. Pathology: a model
    that is always wrong has none.
    """
    return [(clean - accuracy) / clean if clean else float("nan") for accuracy in attacked]


def of_record(result):
    """All metrics of an evaluation record (guard.attacks.robustness.evaluate), over the attacks of its
    protocols.

    Returns {'robustness_ratio', 'improved_robustness_ratio', 'drop_rate': {attack: ...}, 'worst_case'};
    worst_case is the share of images that survive clean and every attack, from the record, since
    accuracies alone do not tell it.
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

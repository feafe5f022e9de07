"""Strength against torchattacks on two networks trained here: never more than a point above its robust
accuracy.

The fast comparison is of a few attacks on few images; `bash tests/run.sh -m slow` makes the whole one.
"""

import functools
import json

import pytest
import torch

from guard import attacks
from guard.bench import attack_speed as bench

EPSILONS = (1 / 255, 4 / 255, 8 / 255)


@functools.cache
def network(name):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    made = bench.small_networks(epochs=3, names=[name])[name]
    torch.set_num_threads(before)
    return made


@pytest.fixture(scope="session")
def digits():
    return bench.digits_images(500)


@pytest.mark.parametrize("name", ["fgsm", "pgd100", "mim", "cw"])
def test_as_strong_as_the_reference(name, digits):
    images, labels = (each[:100] for each in digits)
    for epsilon in EPSILONS[2:]:
        row = bench.compare(name, network("plain"), images, labels, epsilon)
        assert row["ours accuracy"] <= row["reference accuracy"] + 1.0, row


@pytest.mark.slow
@pytest.mark.parametrize("which", ["plain", "GUARD"])
def test_sequences_of_ten_steps_as_strong_as_the_reference(which, digits, monkeypatch):
    """AutoAttack as published, but for the queries of Square, which are cut to 100 on both sides."""
    monkeypatch.setitem(
        attacks.ATTACKS,
        "square",
        attacks.ATTACKS["square"]._replace(settings={"queries": 100, "p_init": 0.8}),
    )
    steps = [
        ("APGD", {"steps": 10, "seed": 0}),
        ("APGDT", {"steps": 10, "seed": 0, "n_classes": 10}),
        ("FAB", {"steps": 10, "seed": 0, "n_classes": 10, "multi_targeted": True}),
    ]
    monkeypatch.setitem(
        bench.REFERENCES, "autoattack-paper", [*steps, ("Square", {"n_queries": 100, "seed": 0})]
    )
    images, labels = (each[:200] for each in digits)
    row = bench.compare("autoattack-paper", network(which), images, labels, 8 / 255)
    assert abs(row["ours accuracy"] - row["reference accuracy"]) <= 1.0, row


@pytest.mark.slow
@pytest.mark.parametrize("name", bench.REFERENCES)
@pytest.mark.parametrize("which", ["plain", "GUARD"])
def test_the_whole_comparison(name, which, digits):
    for epsilon in EPSILONS if name != "cw" else EPSILONS[:1]:
        row = bench.compare(name, network(which), *digits, epsilon)
        print(json.dumps({"network": which, **row}))
        assert row["ours accuracy"] <= row["reference accuracy"] + 1.0, row
        if name == "autoattack-paper":
            assert abs(row["ours accuracy"] - row["reference accuracy"]) <= 1.0, row

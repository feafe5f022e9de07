"""The bench: what it counts and compares. Its plain ways are the formulas, and its numbers are those of
the steps it is given.
"""

import json
import os
import sys
import time

import pytest
import torch
from conftest import command, write_folder

from guard.bench import measure, reference, stages
from guard.data import find
from guard.run import graphs
from recover import sre2l

CPU = torch.device("cpu")


@pytest.mark.parametrize("regularizer", ["gradient-norm", "loss"])
def test_the_plain_step_in_batches_is_the_formula_image_by_image(regularizer, network, batch):
    network.eval()
    x, labels = batch
    found = reference.teacher_loss(network, x, labels, regularizer, 0.7, 2.0)
    alone = {"gradient-norm": reference.gradient_norm, "loss": reference.loss_difference}[regularizer](
        network, x, labels, 2.0
    )
    expected = torch.nn.functional.cross_entropy(network(x), labels) + 0.7 * alone
    weights = list(network.parameters())
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    for one, other in zip(torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights)):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_plain_batches_hold_every_image_once(tmp_path):
    source = find.scan("toy", write_folder(tmp_path, size=24) / "train", "train")
    batches = list(reference.mixed_batches(source.files, source.labels, 16, 5, 0))
    assert [len(pixels) for pixels, _ in batches] == [5, 5, 2] and sorted(
        torch.cat([labels for _, labels in batches]).tolist()
    ) == [0] * 6 + [1] * 6
    assert batches[0][0].shape == (5, 3, 16, 16) and batches[0][0].std() > 0.1


def test_steps_take_turns_and_the_median_counts():
    order, waits = [], iter([0.3, 0.02, 0.2, 0.04, 0.001, 0.03])

    def step(name):
        order.append(name)
        time.sleep(next(waits) if name == "a" else 0)

    found = measure.alternating({"a": lambda: step("a"), "b": lambda: step("b")}, 5, CPU)
    assert order == ["a", "b"] * 6
    assert (
        0.03 <= found["a"]["seconds"] < 0.04 and found["b"]["seconds"] < 0.01
    )  # the first round does not count


def test_the_peak_is_what_a_step_holds_at_most():
    """Of three tensors of 4 MB no more than two are there at a time."""

    def step():
        first = torch.ones(1_000_000)
        second = first + 1
        del first
        third = second * 2
        return third.sum()

    kept = torch.ones(10_000_000)  # was there before
    assert 8_000_000 <= measure.peak_of(step, CPU) < 8_100_000 and len(kept)
    assert measure.alternating({"step": step}, 2, CPU, memory=True)["step"]["peak bytes"] < 8_100_000


def test_operations_are_those_of_the_layers():
    model = torch.nn.Conv2d(3, 8, 3, padding=1)
    x = torch.zeros(2, 3, 10, 10)
    forward = 2 * (2 * 8 * 10 * 10) * (3 * 9)
    assert measure.operations(lambda: model(x)) == forward
    assert measure.operations(lambda: model(x).sum().backward()) == 2 * forward  # the pixels want no gradient
    assert measure.operations(lambda: torch.zeros(3, 4) @ torch.zeros(4, 5)) == 2 * 3 * 4 * 5


def test_a_guard_step_takes_the_passes_that_the_formula_needs():
    """In passes of the network (a forward 1, a backward to the activations 1, one to the weights 1): a
    plain step has 3, gradient-norm 12 more (forward and backward at x and at x + z, and the backward of
    all that), the straightforward way yet 2 for z; loss 7, and 8.
    """
    case = stages.Case("cifar10", "resnet18", 32, 4)
    model, (pixels, labels) = case.build(CPU).train(), case.data(CPU)

    def count(loss):
        return measure.operations(lambda: loss().backward())

    def ours(name):
        settings = stages.dataclasses.replace(
            stages.recipe("cifar10").pretrain, curvature=bool(name), regularizer=name or "loss"
        )
        return count(
            lambda: stages.teacher.teacher_loss(
                settings, model, pixels, labels, batch_size=4, step=0, draws=None
            )[0]
        )

    def theirs(name):
        return count(
            lambda: reference.teacher_loss(model.network, model.normalize(pixels), labels, name, 1.0, 3.0)
        )

    plain = ours(None)
    assert plain == theirs(None)
    assert [round(3 * way(name) / plain) for way in (ours, theirs) for name in ("gradient-norm", "loss")] == [
        15,
        10,
        17,
        11,
    ]


def test_a_record_holds_each_case(tmp_path, monkeypatch):
    monkeypatch.setitem(stages.SMALL, "teacher", [stages.Case("cifar10", "convnet-32", 16, 4)])
    monkeypatch.setitem(stages.SMALL, "recover", [stages.Case("cifar10", "convnet-32", 16, 20)])
    monkeypatch.setattr(measure, "product_rate", lambda device, precision: 1e9)
    for what in ("teacher", "recover"):
        assert (
            command(
                "guard.bench.__main__",
                what,
                "--scale",
                "small",
                "--repeats",
                1,
                "--device",
                "cpu",
                "--output",
                tmp_path / f"{what}.json",
            )
            == 0
        )
        record = json.loads((tmp_path / f"{what}.json").read_text())
        measured = [row["stage"] for row in record["rows"]]
        assert measured[0] == "matrix product" and len(measured) == {"teacher": 5, "recover": 2}[what]
        for row in record["rows"][1:]:
            assert row["seconds"] > 0
            if "each 4th step" in row["stage"]:
                continue
            assert row["times as fast as naive"] == pytest.approx(row["naive seconds"] / row["seconds"])
            assert row["share of product rate"] == pytest.approx(row["TFLOP/s"] * 1e12 / 1e9)


@pytest.mark.parametrize(
    "flags",
    [["attacks", "--attack", "nosuch"], ["strength", "--attack", "pgd20"], ["teacher", "--device", "cup"]],
)
def test_wrong_flags_are_one_line(flags, refused):
    assert "error: argument --" in refused("guard.bench.__main__", *flags)


@pytest.mark.parametrize("stage", ["relabel", "student"])
def test_the_stages_without_their_network_are_compared(stage):
    row = stages._without_network(stage, 1, CPU, 32, 20)
    assert row["images per second"] == pytest.approx(20 / row["seconds"]) and "TFLOP/s" not in row


def growth_rows(factor):
    """A row per point: seconds in proportion to the pixels, and at 100 images per class `factor` times
    that.
    """
    from guard.bench import growth

    rows = []
    for point in growth.points():
        images = point["images per class"] * point["classes"]
        seconds = (
            images * point["image size"] ** 2 * 1e-6 * (factor if point["images per class"] == 100 else 1)
        )
        rows.append(
            {"stage": "relabel, epoch", "network": "convnet", **point, "seconds": seconds, "images": images}
        )
    return rows


@pytest.mark.parametrize("suffix", [".md", ".png"])
def test_growth_writes_nothing_over_its_own_record(suffix, tmp_path, refused):
    path = tmp_path / f"growth{suffix}"
    assert f"growth{suffix}: a figure and a table come there" in refused(
        "guard.bench", "growth", "--output", path
    )


def test_growth_names_the_bend_and_only_that(tmp_path):
    from guard.bench import growth

    assert growth.bends(growth_rows(1.2)) == []
    ((stage, axis, value, factor),) = growth.bends(growth_rows(1.5))
    assert (stage, axis, value) == ("relabel, epoch", "images per class", 100) and factor == pytest.approx(
        1.5
    )
    growth.write_table(growth_rows(1.5), tmp_path / "growth.md")
    growth.plot(growth_rows(1.5), tmp_path / "growth.png")
    text = (tmp_path / "growth.md").read_text()
    assert (
        "| 100 | 10 | 32 | 1.536 |" in text
        and "1.50 times" in text
        and (tmp_path / "growth.png").stat().st_size > 10_000
    )


@pytest.mark.parametrize("what", ["overhead", "growth"])
def test_overhead_and_growth_measure_every_piece(what, monkeypatch):
    """At sizes that take no time."""
    from guard.bench import growth, overhead

    conditions = measure.Conditions(
        CPU, "small", 5 if what == "overhead" else 1
    )  # repeats: one alone can be anything beside other work
    monkeypatch.setattr(overhead, "SMALL", (("cifar10", "convnet-32", 32, 10),))
    monkeypatch.setattr(growth, "points", lambda: [{"images per class": 1, "classes": 10, "image size": 32}])
    if what == "overhead":
        rows = list(overhead.run(conditions))
        assert [row["step"] for row in rows] == [
            *(f"teacher, {name}" for name in overhead.STEPS),
            "recover, iteration",
        ]
        assert rows[0]["plain steps"] == 1 and rows[1]["plain steps"] == pytest.approx(
            rows[1]["seconds"] / rows[0]["seconds"]
        )
        assert rows[1]["plain steps"] > 2 and rows[1]["peak bytes"] > rows[0]["peak bytes"] > 100_000
    else:
        rows = list(growth.run(conditions))
        assert [row["stage"] for row in rows] == [
            "teacher, step",
            "recover, iteration",
            "relabel, epoch",
            "student, epoch",
        ]
    assert all(row["seconds"] > 0 for row in rows)


@pytest.mark.parametrize("what", ["overhead", "growth", "precisions", "stages"])
def test_a_recovery_is_timed_by_as_many_iterations_as_its_device_needs_and_told_by_one(what, monkeypatch):
    """On a GPU a call of few of them would be all set-up and capture."""
    from guard.bench import growth, overhead, precisions, units

    assert units.iterations(torch.device("cuda", 0)) > 20 * graphs.WARM and units.iterations(CPU, 3) == 3
    asked, ten_seconds = [], {"seconds": 10.0, "all seconds": [10.0, 10.0], "peak bytes": 0}

    def timed(steps, *_, **__):
        for name, step in steps.items():
            if name in ("recover, iteration", "ours", "fp32"):
                step()
        return dict.fromkeys(steps, ten_seconds)

    for module in (measure, units):
        monkeypatch.setattr(module, "alternating", timed)
    monkeypatch.setattr(units, "iterations", lambda device, few=1: 5)
    monkeypatch.setattr(sre2l, "recover_pack", lambda settings, *_: asked.append(settings.iterations))
    case = ("cifar10", "convnet-32", 32, 10)
    for module in (overhead, precisions):
        monkeypatch.setattr(module, "SMALL", (case,))
    monkeypatch.setattr(growth, "points", lambda: [growth.BASE])
    conditions = measure.Conditions(CPU, "small", 2)
    if what == "stages":
        (row,) = stages.bench_recover([stages.Case(*case)], conditions, 1e9)
        assert asked == [1, 5] and row["seconds per iteration"] == 2.0  # the first is counted, not timed
        assert row["images per second"] == 10 * 5 / 10.0
        return
    rows = list({"overhead": overhead, "growth": growth, "precisions": precisions}[what].run(conditions))
    seconds = {row.get("step", row.get("stage")): row.get("seconds", row.get("fp32")) for row in rows}
    of_recovery = seconds.pop("recovery" if what == "precisions" else "recover, iteration")
    assert of_recovery == 2.0 and set(seconds.values()) == {10.0} and set(asked) == {5}


def test_a_recovery_of_ten_classes_is_timed_on_equally_many_images_of_each():
    from guard.bench import precisions

    counts = [precisions.images_of(step, 128) for step in ("plain", "recovery", "labels")]
    assert counts == [128, 120, precisions.LABELLED]


def test_no_way_of_a_step_is_charged_for_the_gradients_that_all_keep(monkeypatch):
    """The first to be measured would have to make them, those after it find them."""
    peaks = []

    def alternating(steps, *_, **__):
        peaks.extend(measure.peak_of(steps["ours", None], CPU) for _ in range(2))
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "alternating", alternating)
    case, conditions = stages.Case("cifar10", "convnet-32", 16, 4), measure.Conditions(CPU, "small", 1)
    with pytest.raises(KeyboardInterrupt):
        list(stages.bench_teacher([case], conditions, 1e9))
    assert peaks[0] == peaks[1]


def test_the_bench_of_data_leaves_nothing_in_the_users_cache(tmp_path, monkeypatch):
    """It needs no cache folder that can be written, and keeps its own where it goes with the images."""
    monkeypatch.setenv("GUARD_CACHE", "/dev/null/nowhere")
    (row,) = stages.bench_data(1, CPU, size=32, count=10)
    assert row["images per second"] > 0 and os.environ["GUARD_CACHE"] == "/dev/null/nowhere"
    cache = tmp_path / "cache"
    monkeypatch.setenv("GUARD_CACHE", str(cache))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "alternating", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(stages.bench_data(1, CPU, size=32, count=10))
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("what", ["overhead", "attacks"])
def test_what_will_fail_is_told_before_the_work(what, tmp_path, refused, monkeypatch):
    from guard.bench import attack_speed, overhead

    def too_late(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(overhead, "run", too_late)
    monkeypatch.setattr(attack_speed, "small_networks", too_late)
    if what == "overhead":
        (tmp_path / "file").write_text("")
        assert "cannot write" in refused(
            "guard.bench.__main__", what, "--output", tmp_path / "file" / "x.json"
        )
    else:
        monkeypatch.setitem(sys.modules, "torchattacks", None)
        assert "torchattacks cannot be imported" in refused("guard.bench.__main__", what, "--device", "cpu")

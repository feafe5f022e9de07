"""The figures of results/TABLES.md."""

import pytest
from recorded import add, contents, empty, gathered, run, text_of

from guard.paper import arms, drawing, figures, records, tables
from guard.report.page import recorded as page


@pytest.fixture
def results(tmp_path):
    return empty(tmp_path)


def test_figures_are_drawn_where_there_are_data_and_removed_where_there_are_none(results):
    curve = {"attack": "pgd100", "epsilon": [0.0, 1 / 255], "accuracy": [40.0, 30.0]}
    for arm in ("sre2l", "guard"):
        add(results, run({"clean": 40.0, "pgd100": 30.0}), arm=arm, curve=curve)
        add(results, run({"clean": 30.0, "pgd100": 20.0}), arm=arm, size=1)
    tables.write(results)
    of_an_attack = [
        f"{kind}-cpu-cifar10-pgd100.png" for kind in ("robust-accuracy", "clean-against-robust", "curvature")
    ]
    drawn = sorted(path.name for path in (results / "figures").glob("*"))
    assert drawn == sorted([*of_an_attack, "epsilon-cpu-cifar10.png"])
    text = (results / "TABLES.md").read_text()
    assert all(f"](figures/{name})" in text for name in drawn) and text == text_of(results)
    add(results, run({"clean": 40.0, "pgd100": 30.0}), arm="guard")  # without a curve
    add(results, run({"clean": 40.0, "pgd100": 30.0}), arm="sre2l")
    tables.write(results)
    assert sorted(path.name for path in (results / "figures").glob("*")) == sorted(of_an_attack)


def test_sizes_under_different_attacks_stand_in_figures_of_their_own(results):
    add(results, run({"clean": 40.0, "pgd100": 30.0}), size=1)
    add(results, run({"clean": 40.0, "pgd20": 30.0}), size=10)
    add(results, run({"clean": 40.0, "pgd20": 30.0}), size=10, arm="guard-squared")
    found = figures.planned(gathered(results))
    assert {name for name in found if name.startswith("curvature")} == {
        "curvature-cpu-cifar10-pgd100.png",
        "curvature-cpu-cifar10-pgd20.png",
    }


def test_all_that_is_drawn_lies_within_the_axes(results, monkeypatch):
    """Also where the second of two panels, which share an axis, has larger numbers than the first."""
    from guard.report import plots

    for size, clean in ((1, 40.0), (10, 90.0)):
        for arm, more in (("sre2l", 0.0), ("guard", 5.0)):
            curve = {
                "attack": "pgd100",
                "epsilon": [0.0, 1 / 255],
                "accuracy": [clean + more, 30.0],
                "images": 100,
            }
            add(
                results,
                run({"clean": clean + more, "pgd100": 30.0}, change=clean),
                size=size,
                arm=arm,
                curve=curve,
            )
    outside, names = [], []

    def look(figure, path):
        names.append(path.name.split("-cpu")[0])
        for axes in figure.axes:
            (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
            for line in axes.get_lines():
                outside.extend(
                    (path.name, x, y)
                    for x, y in line.get_xydata()
                    if not (left <= x <= right and bottom <= y <= top)
                )

    monkeypatch.setattr(plots, "save", look)
    figures.write(gathered(results), results / "figures")
    assert (
        sorted(names) == ["clean-against-robust", "curvature", "epsilon", "robust-accuracy"] and not outside
    )


def test_a_single_run_is_as_uncertain_as_its_images_leave_it(results):
    add(results, run({"clean": 80.0, "pgd100": 20.0}))
    (group,) = gathered(results)
    assert drawing.accuracy(group, "clean") == pytest.approx((80.0, 4.0))  # sqrt(0.8 * 0.2 / 100)
    add(results, run({"clean": 84.0, "pgd100": 20.0}), seed=1)
    (group,) = gathered(results)
    assert drawing.accuracy(group, "clean") == pytest.approx((82.0, 8**0.5))


def test_an_arm_has_one_colour_in_figures_and_pages():
    """Those of the frontier have their teacher's; what stands for none of ours is grey."""
    assert drawing.colour_of("guard") == drawing.colour_of("guard/modern") == drawing.STYLES["guard"][0]
    assert drawing.colour_of("rded/nfgsm+guard/adversarial") == drawing.TEACHERS["nfgsm+guard"]
    assert drawing.colour_of("sre2l/nfgsm") == drawing.TEACHERS["nfgsm"]
    assert drawing.colour_of("random/guard/paper") == drawing.TEACHERS["guard"]
    assert drawing.colour_of("guard-resnet18/paper") == drawing.STYLES["guard"][0]
    assert drawing.colour_of("random/plain") == drawing.TEACHERS["plain"]
    for arm in (*arms.FRONTIER, *arms.DIGITS):
        assert drawing.colour_of(arm) != drawing.OTHER[0], arm
    of_digits = [drawing.STYLES[arm] for arm in arms.DIGITS]
    assert len(set(of_digits)) == len(of_digits)  # colour and mark tell one from the other
    assert drawing.colour_of("random+guard+adversarial") == drawing.STYLES["guard"][0]
    assert drawing.colour_of(None) == drawing.colour_of("goal") == drawing.OTHER[0]


def test_the_page_of_results_knows_runs_of_other_settings_than_planned(results):
    swap = {"images": "sre2l", "labels": "guard"}
    for about in ({"arm": "guard"}, {"arm": "guard-jpg"}, swap):
        add(results, run({"clean": 50.0, "pgd100": 20.0}), **about)
    other = contents(run({"clean": 50.0}), scale="cpu", dataset="cifar10", size=10, arm="sre2l", seed=0)
    records.add({**other, "command": other["command"] + " --batch-size 7"}, results, "main")
    add(results, run({"clean": 50.0}), arm="of an earlier plan")
    kinds = {row["arm"]: row["kind"] for row in page.rows(results)[0]}
    assert kinds.pop("sre2l") == kinds.pop("of an earlier plan") == "otherwise"
    assert kinds == {"guard": "arm", "guard-jpg": "variation", "images sre2l, labels guard": "swapped"}

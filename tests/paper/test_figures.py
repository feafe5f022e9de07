"""The figures of results/TABLES.md, and those of distilled images."""

import shutil

import pytest
from conftest import command
from PIL import Image
from recorded import add, empty, gathered, run, text_of

from guard.paper import arms, drawing, figures, plan, tables


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


# ---- distilled images ----------------------------------------------------------------------------


@pytest.fixture
def images(toy, tmp_path, monkeypatch):
    """An output root with the images of both arms, as results/reproduce.sh leaves them."""
    monkeypatch.setitem(plan.SCALES["cpu"], "digits", plan.Setting("toy"))
    for arm in ("guard", "sre2l"):
        name = plan.PlannedRun("digits", 10, arm, arm, 2).name
        shutil.copytree(toy / "images", tmp_path / "runs/cpu" / name / "images")
    return tmp_path / "runs"


def test_distilled_images_are_drawn_from_the_runs_own_folders(images, tmp_path, capsys):
    words = ["--scale", "cpu", "--output", images, "--to", tmp_path / "pictures"]
    assert command("guard.paper.distilled", *words) == 0
    (drawn,) = (tmp_path / "pictures").iterdir()
    assert drawn.name == "distilled-cpu-digits.png" and str(drawn) in capsys.readouterr().out
    with Image.open(drawn) as picture:
        assert picture.width == 1200  # ten inches


def test_the_strip_is_the_first_image_of_each_class(toy):
    from guard.distilled import image_folder
    from guard.paper.distilled import strip

    held = image_folder.load_distilled(toy / "images")
    found = strip(toy / "images")
    side = held.pixels.shape[2]
    assert found.shape == (side, 2 * side, 3)
    second = held.pixels[held.labels == 1][0].permute(1, 2, 0).numpy()
    assert (found[:, side:] == second).all()


def test_a_damaged_image_is_named(images, tmp_path, refused):
    path = next((images / "cpu").rglob("*guard*/images/*/*.png"))
    path.write_bytes(b"no picture")
    assert path.name in refused("guard.paper.distilled", "--output", images, "--to", tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_images_of_one_arm_make_no_picture(images, refused):
    shutil.rmtree(next((images / "cpu").glob("*sre2l*")))
    assert "no images of both guard and sre2l" in refused("guard.paper.distilled", "--output", images)


def test_an_arm_has_one_colour_in_figures_and_pages():
    """Those of the frontier have their teacher's; what stands for none of ours is grey."""
    assert drawing.colour_of("guard") == drawing.colour_of("guard/modern") == drawing.STYLES["guard"][0]
    assert drawing.colour_of("rded/nfgsm+guard/adversarial") == drawing.TEACHERS["nfgsm+guard"]
    assert drawing.colour_of("sre2l/nfgsm") == drawing.TEACHERS["nfgsm"]
    assert drawing.colour_of("random/plain") == drawing.TEACHERS["plain"]
    for arm in arms.FRONTIER:
        assert drawing.colour_of(arm) != drawing.OTHER[0], arm
    assert drawing.colour_of(None) == drawing.colour_of("goal") == drawing.OTHER[0]

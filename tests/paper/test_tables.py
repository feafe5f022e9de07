"""results/TABLES.md and its figures: means by hand, contradictions that a reader of the published tables
knows, and nothing stale.
"""

import copy
import json
import shutil

import numpy
import pytest
from conftest import ROOT, command
from PIL import Image

from guard.errors import UserError
from guard.paper import cells, figures, published, tables

RESULTS = ROOT / "results"
COLUMNS = ("clean", "pgd100", "square", "autoattack", "cw", "mim")


def text_of(results):
    return tables.text(results, cells.groups(cells.read(results)))


def run(
    attacks, *, seed=0, epochs=4, epsilon=1 / 255, protocols=("paper",), worst_case=None, first=0, change=1.0
):
    """A trimmed log.json with only what tables are made from."""
    environment = {"device": "a machine", "torch": "2.11.0", "commit": "0123456789ab-dirty"}
    evaluated = {name: {"accuracy": accuracy} for name, accuracy in attacks.items()}
    stages = {
        "pretrain": {
            "settings": {
                "model": "convnet-7",
                "image_size": 32,
                "epochs": epochs,
                "batch_size": 64,
                "learning_rate": 0.1,
                "images": 300,
                "seed": seed,
                "data": "feedbeef" * 8,
            },
            "results": {"curvature": {"gradient_change": change, "along_z": 2.0, "largest_eigenvalue": 3.0}},
        },
        "recover": {
            "settings": {"iterations": 250, "r_bn": 1.0, "step_size": 0.25, "images_per_class": 10},
            "seed": seed,
            "teacher": "t",
        },
        "relabel": {"settings": {"epochs": 200, "seed": seed}, "teacher": "t"},
        "train": {
            "settings": {
                "model": "convnet-7",
                "temperature": 30.0,
                "seed": seed,
                "images": f"i{seed}",
                "teacher": f"t{seed}",
                "labels": {"epochs": 200, "seed": seed},
            }
        },
        "evaluate teacher": {"attacks": {"clean": {"accuracy": 80.0}, "pgd100": {"accuracy": 50.0}}},
        "evaluate student": {
            "complete": True,
            "protocols": list(protocols),
            "epsilon": epsilon,
            "images": 100,
            "attacks": evaluated,
            "worst_case": worst_case,
            "key": {"images per class": first},
        },
    }
    return {name: {**entry, "environment": environment} for name, entry in stages.items()}


def add(
    results,
    record,
    *,
    scale="cpu",
    dataset="cifar10",
    size=10,
    arm="guard",
    seed=0,
    images=None,
    labels=None,
    curve=None,
):
    """Writes a cell; returns its path."""
    path = (
        results
        / "cells"
        / scale
        / f"{dataset}-ipc{size}-{arm.replace(', ', '-').replace(' ', '-')}-seed{seed}.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {
        "format": "guard-cell-1",
        "scale": scale,
        "dataset": dataset,
        "images per class": size,
        "arm": arm,
        "seed": seed,
        "command": "bash run.sh",
        "images from": images or arm,
        "labels from": labels or arm,
        "record": record,
        "curve": curve,
    }
    path.write_text(json.dumps(contents))
    return path


@pytest.fixture
def results(tmp_path):
    shutil.copy(RESULTS / "published.json", tmp_path)
    return tmp_path


def rows(text, *starts):
    """The cells after the first few of every table row that begins with `starts`."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    return [row[len(starts) :] for row in found if row[: len(starts)] == list(starts)]


# ---- the committed file --------------------------------------------------------------------------


def test_the_committed_tables_are_those_of_the_committed_records():
    assert (RESULTS / "TABLES.md").read_text() == text_of(RESULTS), (
        "results/TABLES.md is stale; run python -m guard.report and commit it"
    )


def test_the_committed_figures_are_those_that_the_tables_show():
    shown = set(figures.planned(cells.groups(cells.read(RESULTS))))
    assert {path.name for path in (RESULTS / "figures").glob("*.png")} == shown


# ---- published numbers ---------------------------------------------------------------------------


def test_published_numbers_stand_as_published():
    text = text_of(RESULTS)
    assert ["-", "57.93", "23.87", "44.07", "19.69", "41.47", "21.80"] in rows(
        text, "10", "guard", "published"
    )
    assert ["-", "57.93", "23.87", "44.07", "19.69", "58.67", "21.80"] in rows(
        text, "10", "guard", "published"
    )
    assert ["-", "30.95", "46.88", "48.56", "14.99", "15.19", "15.27"] in rows(
        text, "1", "dc+guard", "published"
    )


def test_every_published_cell_is_in_the_tables():
    text = text_of(RESULTS)
    for table in json.loads((RESULTS / "published.json").read_text())["tables"].values():
        for sizes in (
            value
            for key, value in table.items()
            if key in ("imagenette", "tiny-imagenet", "imagenet", "cifar10")
        ):
            for size, methods in sizes.items():
                for method, accuracies in methods.items():
                    assert ["-", *(f"{accuracies[name]:.2f}" for name in COLUMNS)] in rows(
                        text, size, method, "published"
                    )


def test_methods_that_are_published_only_have_no_row_of_ours():
    text = text_of(RESULTS)
    assert not any(
        rows(text, size, method, "ours")
        for size in ("1", "10", "50", "100")
        for method in ("mtt", "tesla", "dc", "dc+guard", "sre2l+adv", "sre2l+guard")
    )
    assert rows(text, "10", "adv-t", "ours") and rows(text, "10", "adv-f", "ours")


def test_known_contradictions_of_the_published_tables_are_found():
    found = published.contradictions(published.read(RESULTS)["tables"])

    def said(*words):
        return [line for _, line in found if all(word in line for word in words)]

    assert said("cifar10, 1 image per class, dc+guard", "pgd100 46.88", "square 48.56", "above clean 30.95")
    assert said("imagenette, 10 images per class, guard", "cw 58.67", "above clean 57.93")
    assert said("imagenette, 10 images per class, guard", "cw is 41.47", "58.67")
    assert said("imagenette, 100 images per class, guard", "autoattack 64.84 above pgd100 57.50")
    assert not said("gr-1e-4", "35.59")  # 0.05 above PGD100 is not more than 0.05
    assert len(said("above clean")) == 2 and len(said(" but ")) == 1
    text = text_of(RESULTS)
    assert all(line in text for _, line in found)


def test_contradictions_are_none_where_there_is_none():
    cell = dict(zip(COLUMNS, (50.0, 20.0, 30.0, 20.04, 25.0, 21.0)))
    sound = {
        "a": {"title": "", "cifar10": {"10": {"guard": cell, "sre2l": cell}}},
        "b": {"title": "", "cifar10": {"10": {"sre2l+guard": dict(cell)}}},
    }
    assert not published.contradictions(sound)
    other = copy.deepcopy(sound)
    other["b"]["cifar10"]["10"]["sre2l+guard"]["mim"] = 22.0
    (only,) = published.contradictions(other)
    assert "21.00 in a but 22.00 in b" in only[1]


# ---- ours beside them ----------------------------------------------------------------------------


def test_ours_at_the_published_size_has_mean_deviation_runs_and_difference(results):
    for seed, (clean, pgd) in enumerate([(50.0, 20.0), (60.0, 24.0)]):
        add(
            results,
            run({"clean": clean, "pgd100": pgd, "autoattack-paper": 19.0, "autoattack": 5.0}, seed=seed),
            scale="paper",
            dataset="imagenette",
            seed=seed,
        )
    first = rows(text_of(results), "10", "guard", "ours")[0]
    # means 55 and 22 against the published 57.93, 23.87 and 19.69; deviations 10/sqrt(2) and 4/sqrt(2)
    assert first == [
        "2",
        "55.00 ± 7.07 (-2.93)",
        "22.00 ± 2.83 (-1.87)",
        "-",
        "19.00 ± 0.00 (-0.69)",
        "-",
        "-",
    ]


def test_adversarial_training_has_two_rows_of_ours(results):
    for arm, clean in (("adv-t", 30.0), ("adv-f", 31.0)):
        add(results, run({"clean": clean}), scale="paper", dataset="imagenette", size=1, arm=arm)
    text = text_of(results)
    assert (
        rows(text, "1", "adv-t", "ours")[0][1] == "30.00 (+18.39)"
        and rows(text, "1", "adv-f", "ours")[0][1] == "31.00 (+19.39)"
    )


def test_the_regularizer_on_sre2l_is_guard_in_the_table_of_other_methods(results):
    add(results, run({"clean": 40.0, "pgd100": 30.0}), scale="paper")
    assert rows(text_of(results), "10", "guard", "ours")[-1][:3] == ["1", "40.00 (+9.24)", "30.00 (+7.69)"]


def test_another_epsilon_and_fewer_images_are_told_and_give_no_difference(results):
    record = run(
        {"clean": 40.0, "pgd100": 30.0},
        epsilon=2 / 255,
        protocols=("custom (paper at epsilon 2/255)",),
        first=10,
    )
    add(results, record, scale="paper", dataset="imagenette")
    text = text_of(results)
    assert rows(text, "10", "guard", "ours")[0][:3] == ["1", "40.00 (-17.93)", "30.00"]
    assert (
        "**Not the protocol's own evaluation**: imagenette, 10 images per class, guard: evaluated on 100"
        " validation images (the first 10 of each class), which leaves a standard error of up to 5.0 points,"
        " epsilon 2/255, protocol custom" in text
    )


def test_cells_at_cpu_size_stand_in_their_own_tables(results):
    for seed, clean in enumerate((40.0, 41.0, 42.0)):
        add(results, run({"clean": clean, "pgd100": 30.0}, seed=seed), seed=seed)
    text = text_of(results)
    ours, alone = text.split("The same tables at CPU size")
    assert all(set(row) == {"-"} for row in rows(ours, "10", "guard", "ours"))
    assert rows(alone, "10", "guard") == [["3", "41.00 ± 1.00", "30.00 ± 0.00"]]
    for told in (
        "teacher convnet-7 at 32 pixels",
        "4 epochs on the first 300 training images of each class",
        "250 iterations",
        "200 epochs",
    ):
        assert told in alone


def test_a_cell_without_a_published_counterpart_is_not_lost(results):
    add(results, run({"clean": 12.25}), scale="paper", dataset="cifar100", arm="guard-squared")
    assert rows(text_of(results), "10", "guard-squared")[0][:2] == ["1", "12.25"]


def test_protocol_standard_has_its_own_table_with_the_worst_case(results):
    add(
        results,
        run(
            {"clean": 40.0, "autoattack": 9.5, "autoattack-paper": 10.5},
            protocols=("paper", "standard"),
            worst_case=8.5,
        ),
    )
    paper, standard = text_of(results).split("## Protocol standard")
    assert rows(standard, "10", "guard")[0] == ["1", "40.00", "-", "-", "9.50", "-", "-", "8.50"]
    assert "10.50" in paper and "9.50" not in paper.split("at CPU size")[1]


def test_runs_with_unequal_settings_are_not_averaged_silently(results):
    for seed, epochs in enumerate((4, 8)):
        add(results, run({"clean": 40.0}, seed=seed, epochs=epochs), seed=seed)
    warned = [line for line in text_of(results).splitlines() if line.startswith("**Warning**")]
    assert (
        warned
        and "cifar10, 10 images per class, guard" in warned[0]
        and "pretrain epochs (4, 8)" in warned[0]
        and "seed" not in warned[0].split(":", 3)[-1]
    )


def test_runs_that_differ_in_their_seeds_alone_are_fine(results):
    for seed in (0, 1):
        add(results, run({"clean": 40.0}, seed=seed), seed=seed)
    assert "Warning" not in text_of(results)


def test_machine_and_commit_are_told(results):
    add(results, run({"clean": 40.0}))
    (results / "data.json").write_text(json.dumps({"copies": {"feedbeef" * 8: "a copy"}}))
    (row,) = rows(text_of(results), "cells/cpu, cifar10")
    assert row == ["a machine", "2.11.0", "not recorded", "feedbeeffeed (a copy)", "0123456789ab", "yes"]
    (results / "data.json").write_text('{"copies": null}')
    with pytest.raises(UserError, match="data.json has no object 'copies'"):
        text_of(results)


# ---- the swap of labels --------------------------------------------------------------------------


def squares(results, accuracies):
    """Cells of the four combinations; accuracies: (images, labels) -> (clean, PGD100) for seed 0; seed 1
    has 2 more of both.
    """
    for (images, labels), (clean, pgd) in accuracies.items():
        arm = images if images == labels else f"images {images}, labels {labels}"
        for seed in (0, 1):
            record = run(
                {"clean": clean + 2 * seed, "pgd100": pgd + 2 * seed},
                seed=seed,
                change=0.5 if images == "guard" else 1.5,
            )
            add(results, record, arm=arm, seed=seed, images=images, labels=labels)


def test_the_main_effects_of_images_and_labels(results):
    squares(
        results,
        {
            ("sre2l", "sre2l"): (50, 10),
            ("sre2l", "guard"): (52, 20),
            ("guard", "sre2l"): (49, 14),
            ("guard", "guard"): (53, 30),
        },
    )
    text = text_of(results).split("labels from another")[1]
    # images: (49 - 50 + 53 - 52) / 2 = 0 and (14 - 10 + 30 - 20) / 2 = 7; labels: (52 - 50 + 53 - 49) /
    # 2 = 3 and (20 - 10 + 30 - 14) / 2 = 13
    assert rows(text, "clean") == [["+0.00 ± 0.00", "+3.00 ± 0.00", "2"]]
    assert rows(text, "pgd100") == [["+7.00 ± 0.00", "+13.00 ± 0.00", "2"]]
    (plain,), (robust,) = rows(text, "sre2l"), rows(text, "guard")
    assert plain == [
        "51.00 ± 1.41 [2]",
        "11.00 ± 1.41 [2]",
        "53.00 ± 1.41 [2]",
        "21.00 ± 1.41 [2]",
        "80.00 ± 0.00",
        "50.00 ± 0.00",
        "1.5 ± 0",
        "2 ± 0",
        "3 ± 0",
    ]
    assert (
        robust[:4] == ["50.00 ± 1.41 [2]", "15.00 ± 1.41 [2]", "54.00 ± 1.41 [2]", "31.00 ± 1.41 [2]"]
        and robust[6] == "0.5 ± 0"
    )


def test_swapped_cells_stand_in_no_other_table(results):
    squares(results, {("sre2l", "guard"): (52, 20)})
    text = text_of(results)
    before, swapped = text.split("labels from another", 1)
    assert "52.00" not in before and "53.00" not in before and "53.00 ± 1.41 [2]" in swapped
    assert rows(swapped, "clean") == [["-", "-", "-"]]  # an effect takes all four combinations


def test_a_swap_from_another_teacher_is_told(results):
    squares(
        results, {("sre2l", "sre2l"): (50, 10), ("sre2l", "guard"): (52, 20), ("guard", "guard"): (53, 30)}
    )
    record = run({"clean": 49, "pgd100": 14})
    record["relabel"]["teacher"] = "another"
    add(results, record, arm="images guard, labels sre2l", images="guard", labels="sre2l")
    warned = [line for line in text_of(results).splitlines() if line.startswith("**Warning**")]
    assert len(warned) == 1 and "relabel did not use the teacher of sre2l with seed 0" in warned[0]


# ---- costs ---------------------------------------------------------------------------------------


def test_overhead_stands_beside_the_published(results):
    row = {
        "case": "cifar10",
        "step": "teacher, gradient-norm",
        "seconds": 0.25,
        "seconds_std": 0.01,
        "peak bytes": 3 * 2**20,
        "plain steps": 2.5,
    }
    (results / "overhead.json").write_text(json.dumps({"rows": [row], "environment": {"device": "a GPU"}}))
    text = text_of(results)
    assert rows(text, "ours", "cifar10", "teacher, gradient-norm") == [["0.25 ± 0.01", "3", "2.50"]]
    assert (
        rows(text, "published", "adversarial-training")[0][1:3] == ["2.198 ± 0.00067", "4211"]
        and "device a GPU" in text
    )
    (results / "overhead.json").write_text(json.dumps({"rows": [{"case": "cifar10"}]}))
    with pytest.raises(UserError, match="overhead.json"):
        text_of(results)


# ---- files that are no records -------------------------------------------------------------------


def damage(contents, case):
    if case == "format":
        return {**contents, "format": "guard-cell-9"}
    if case == "no evaluation":
        del contents["record"]["evaluate student"]
    if case == "unfinished":
        contents["record"]["evaluate student"]["complete"] = False
    if case == "no percentage":
        contents["record"]["evaluate student"]["attacks"]["clean"]["accuracy"] = float("nan")
    if case == "teacher":
        contents["record"]["evaluate teacher"] = None
    if case == "settings":
        del contents["record"]["pretrain"]["settings"]["model"]
    if case == "scale":
        contents["scale"] = "paper"
    if case == "curve":
        contents["curve"] = {"epsilon": [0.0], "accuracy": []}
    return contents


@pytest.mark.parametrize(
    "case",
    ["format", "no evaluation", "unfinished", "no percentage", "teacher", "settings", "scale", "curve"],
)
def test_a_damaged_cell_is_named(results, case):
    path = add(results, run({"clean": 40.0}))
    path.write_text(json.dumps(damage(json.loads(path.read_text()), case)))
    with pytest.raises(UserError, match=path.name):
        tables.write(results)
    assert not (results / "TABLES.md").exists()


@pytest.mark.parametrize(
    "name",
    [
        "cpu/notes.txt",
        "stray.json",
        "cpu/cifar10-ipc10-guard-seed0.png",
        "gpu/cifar10-ipc10-guard-seed0.json",
        "cpu/torn.json",
    ],
)
def test_an_unknown_file_is_named(results, name):
    path = results / "cells" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"format": "guard-ce')
    with pytest.raises(UserError, match=path.name):
        text_of(results)


def test_an_evaluation_on_no_images_is_named(results):
    record = run({"clean": 40.0})
    record["evaluate student"]["images"] = 0
    add(results, record)
    with pytest.raises(UserError, match="evaluated on no images"):
        text_of(results)


def test_the_same_run_twice_is_an_error(results):
    path = add(results, run({"clean": 40.0}))
    shutil.copy(path, path.with_name("copy.json"))
    with pytest.raises(UserError, match="same run"):
        text_of(results)


# ---- one setting changed -------------------------------------------------------------------------


def test_a_table_at_cpu_size_holds_what_is_planned_for_it(results):
    """Not the swap's students, which have another size and other attacks."""
    add(results, run({"clean": 41.0, "pgd100": 30.0}), size=5, arm="cda")
    add(results, run({"clean": 42.0, "pgd20": 30.0}), size=10, arm="sre2l")
    table, other = (
        text_of(results).split("other-methods, CPU size: cifar10")[1].split("other runs, CPU size: cifar10")
    )
    assert rows(table, "5", "cda") == [["1", "41.00", "30.00"]] and not rows(table, "10")
    assert rows(other, "10", "sre2l")[0] == ["1", "42.00", "30.00"]


def test_a_varied_setting_stands_beside_guard_and_in_no_other_table(results):
    for seed, (robust, changed) in enumerate(((30.0, 36.0), (20.0, 24.0), (10.0, None))):
        add(results, run({"clean": 50.0, "pgd100": robust}, seed=seed), seed=seed)
        if changed:
            add(
                results,
                run({"clean": 48.0, "pgd100": changed}, seed=seed, epochs=9, change=0.5),
                arm="guard-epochs-10",
                seed=seed,
            )
    text = text_of(results)
    plain, varied = rows(text, "guard")[-1], rows(text, "guard-epochs-10")
    assert plain == [
        "3",
        "80.00 ± 0.00",
        "50.00 ± 0.00",
        "1 ± 0",
        "50.00 ± 0.00",
        "20.00 ± 10.00",
        "-",
        "-",
        "-",
    ]
    assert varied == [
        [
            "2",
            "80.00 ± 0.00",
            "50.00 ± 0.00",
            "0.5 ± 0",
            "48.00 ± 0.00",
            "30.00 ± 8.49",
            "-2.00 ± 0.00",
            "+5.00 ± 1.41",
            "pretrain epochs (4, 9)",
        ]
    ]
    tables.write(results)
    assert "epochs-10" not in "".join(path.name for path in (results / "figures").iterdir())


# ---- figures -------------------------------------------------------------------------------------


def test_figures_are_drawn_where_there_are_data_and_removed_where_there_are_none(results):
    curve = {"attack": "pgd100", "epsilon": [0.0, 1 / 255], "accuracy": [40.0, 30.0]}
    for arm in ("sre2l", "guard"):
        path = add(results, run({"clean": 40.0, "pgd100": 30.0}), arm=arm, curve=curve)
        Image.fromarray(numpy.zeros((8, 80, 3), numpy.uint8)).save(path.with_suffix(".png"))
        add(results, run({"clean": 30.0, "pgd100": 20.0}), arm=arm, size=1)
    tables.write(results)
    of_an_attack = [
        f"{kind}-cpu-cifar10-pgd100.png" for kind in ("robust-accuracy", "clean-against-robust", "curvature")
    ]
    drawn = sorted(path.name for path in (results / "figures").glob("*"))
    assert drawn == sorted([*of_an_attack, "epsilon-cpu-cifar10.png", "distilled-cpu-cifar10.png"])
    text = (results / "TABLES.md").read_text()
    assert all(f"](figures/{name})" in text for name in drawn) and text == text_of(results)
    add(results, run({"clean": 40.0, "pgd100": 30.0}), arm="guard")  # without a curve
    path.with_suffix(".png").unlink()
    add(results, run({"clean": 40.0, "pgd100": 30.0}), arm="sre2l")
    tables.write(results)
    assert sorted(path.name for path in (results / "figures").glob("*")) == sorted(of_an_attack)


def test_sizes_under_different_attacks_stand_in_figures_of_their_own(results):
    add(results, run({"clean": 40.0, "pgd100": 30.0}), size=1)
    add(results, run({"clean": 40.0, "pgd20": 30.0}), size=10)
    add(results, run({"clean": 40.0, "pgd20": 30.0}), size=10, arm="guard-squared")
    found = figures.planned(cells.groups(cells.read(results)))
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
    figures.write(cells.groups(cells.read(results)), results / "figures")
    assert (
        sorted(names) == ["clean-against-robust", "curvature", "epsilon", "robust-accuracy"] and not outside
    )


def test_a_single_run_is_as_uncertain_as_its_images_leave_it(results):
    add(results, run({"clean": 80.0, "pgd100": 20.0}))
    (group,) = cells.groups(cells.read(results))
    assert figures._accuracy(group, "clean") == pytest.approx((80.0, 4.0))  # sqrt(0.8 * 0.2 / 100)
    add(results, run({"clean": 84.0, "pgd100": 20.0}), seed=1)
    (group,) = cells.groups(cells.read(results))
    assert figures._accuracy(group, "clean") == pytest.approx((82.0, 8**0.5))


def test_a_damaged_strip_is_named(results):
    for arm in ("sre2l", "guard"):
        path = add(results, run({"clean": 40.0, "pgd100": 30.0}), arm=arm)
        path.with_suffix(".png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="seed0.png"):
        tables.write(results)


def test_a_folder_still_means_an_experiment(tmp_path, capsys):
    assert command("guard.report", tmp_path) == 2
    assert "name the folder of an experiment" in capsys.readouterr().err

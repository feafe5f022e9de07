"""results/TABLES.md: means by hand, contradictions that a reader of the published tables knows, and nothing
stale.
"""

import copy
import dataclasses
import json
import re

import pytest
from conftest import command
from recorded import RESULTS, add, empty, gathered, rows, run, text_of

from guard.errors import UserError
from guard.paper import arms, figures, groups, judged, markdown, not_run, plan, published, swap, tables
from guard.run import storage

COLUMNS = ("clean", "pgd100", "square", "autoattack", "cw", "mim")


@pytest.fixture
def results(tmp_path):
    return empty(tmp_path)


# ---- the committed file --------------------------------------------------------------------------


def test_the_committed_tables_are_those_of_the_committed_records():
    assert (RESULTS / "TABLES.md").read_text() == text_of(RESULTS), (
        "results/TABLES.md is stale; run python -m guard.report and commit it"
    )


def test_the_committed_figures_are_those_that_the_tables_show():
    shown = set(figures.planned(gathered(RESULTS)))
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
    (line,) = [line for line in text.splitlines() if "reproduce.sh adversarial-training --seeds" in line]
    told = "`bash results/reproduce.sh adversarial-training --seeds 0,1,2`, about "
    assert line.startswith(f"Not run yet at the published size: {told}")
    assert "no estimate" not in text


def test_a_run_of_a_published_method_that_is_not_ours_stands_in_no_row_of_it(results):
    for arm in ("dc", "sre2l"):
        add(results, run({"clean": 50.0}), scale="paper", dataset="cifar10", arm=arm)
    text = text_of(results)
    assert rows(text, "10", "sre2l", "ours") and not rows(text, "10", "dc", "ours")


def judgement(results, name="mtt-10", epsilon=1 / 255, views="as set", unlike=(), network="resnet18"):
    (results / "judged").mkdir(exist_ok=True)
    accuracies = {"clean": [50.0, 2.0], "pgd100": [20.0, None], "autoattack-paper": [7.0, 1.0]}
    row = {"set": name, "images per class": 10, "network": network, "views": views}
    row |= {"accuracies": accuracies, "epsilon": epsilon, "images": 30}
    contents = {"dataset": "imagenette", "recipe": "mtt", "seeds": [0, 1, 2], "rows": [row]}
    contents["unlike the recipe"] = dict(unlike)
    storage.write_sealed(contents, results / "judged" / "mine.json")


def test_a_judged_set_stands_beside_the_method_of_its_name(results):
    published_row = json.loads((RESULTS / "published.json").read_text())["tables"]["main"]["imagenette"]["10"]
    clean, robust = published_row["mtt"]["clean"], published_row["mtt"]["autoattack"]
    judgement(results)
    (row,) = rows(text_of(results), "10", "mtt", "judged mtt-10: resnet18, mtt")
    assert row[:3] == [
        "3",
        f"50.00 ± 2.00 ({50 - clean:+.2f})",
        f"20.00 ({20 - published_row['mtt']['pgd100']:+.2f})",
    ]
    assert row[4] == f"7.00 ± 1.00 ({7 - robust:+.2f})" and row[3] == row[5] == "-"
    judgement(results, epsilon=2 / 255)  # other accuracies are then no counterparts
    (row,) = rows(text_of(results), "10", "mtt", "judged mtt-10: resnet18, mtt")
    assert row[1].endswith(")") and row[2] == "20.00"
    judgement(results, unlike={"epochs": 1, "clamp": True})  # nor are those of other students
    (row,) = rows(text_of(results), "10", "mtt", "judged mtt-10: resnet18, mtt but epochs 1, clamp True")
    assert row[1:3] == ["50.00 ± 2.00", "20.00"]
    judgement(results, network="convnet-in")  # the published students are ResNet-18s
    (row,) = rows(text_of(results), "10", "mtt", "judged mtt-10: convnet-in, mtt")
    assert row[1:3] == ["50.00 ± 2.00", "20.00"]


@pytest.mark.parametrize("name", ["of-mttx", "mtt-tesla", "MTT_Tesla.10"])
def test_a_judged_set_of_no_published_method_or_of_two_stands_in_a_table_of_its_own(name, results):
    judgement(results, name=name)
    text = text_of(results)
    _, _, after = text.partition("### Judged, without a published row of their name: imagenette\n")
    numbers = "| 1/255 | 3 | 50.00 ± 2.00 | 20.00 | 7.00 ± 1.00 |"
    assert f"| 10 | judged {name}: resnet18, mtt {numbers}" in after
    assert text.count("| judged ") == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("res_DC_10", "dc"),
        ("dc_guard_10", "dc+guard"),
        ("SRe2L+GUARD", "sre2l+guard"),
        ("guard-10", None),  # with what?
        ("dc-cda", None),
        ("gr-0.1-50", "gr-0.1"),
        ("gr-1", "gr-1"),
    ],
)
def test_a_judged_set_is_of_the_method_that_all_its_words_tell(name, expected, results):
    judgement(results, name=name)
    found = judged.read(results)
    methods = ["dc", "dc+guard", "sre2l", "sre2l+guard", "cda", "cda+guard", "gr-0.1", "gr-1"]
    assert [each for each in methods if judged.of(found, each, methods, "imagenette", 10)] == [
        expected
    ] * bool(expected)


def test_students_that_saw_no_views_stand_nowhere(results):
    judgement(results, views="unaugmented")
    assert "| judged " not in text_of(results)


def test_a_damaged_judgement_is_named(results):
    judgement(results)
    path = results / "judged" / "mine.json"
    path.write_text(path.read_text().replace("50.0", "60.0"))
    with pytest.raises(UserError, match="mine.json is damaged"):
        text_of(results)
    storage.write_sealed({"rows": [{}]}, path)
    with pytest.raises(UserError, match="mine.json is no judgement"):
        text_of(results)


def test_known_contradictions_of_the_published_tables_are_found():
    found = published.contradictions(published.read(RESULTS)["tables"])

    def said(*words):
        return [line for _, line in found if all(word in line for word in words)]

    assert said("cifar10, 1 image per class, dc+guard", "pgd100 46.88", "square 48.56", "above clean 30.95")
    assert said("imagenette, 10 images per class, guard", "cw 58.67", "above clean 57.93")
    assert said("imagenette, 10 images per class, guard", "cw is 41.47", "58.67")
    assert said("imagenette, 100 images per class, guard", "autoattack 64.84 above pgd100 57.50")
    assert not said("gr-1e-4", "35.59")  # 0.05 above PGD100 is not more than 0.05
    assert said("imagenette, 50 images per class, tesla", "autoattack 27.21 above square 25.34")
    assert said("imagenette: square below pgd100", "mtt at 10, 50, 100; tesla at 10, 50, 100; sre2l at 100")
    assert len(said("above clean")) == 2 and len(said(" but ")) == 1
    text = text_of(RESULTS)
    assert all(line in text for _, line in found)


def test_contradictions_are_none_where_there_is_none():
    cell = dict(zip(COLUMNS, (50.0, 20.0, 30.0, 20.04, 25.0, 21.0), strict=True))
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
        rows(text, "1", "adv-t", "ours")[0][1] == "30.00 ± 4.58 (+18.39)"
        and rows(text, "1", "adv-f", "ours")[0][1] == "31.00 ± 4.62 (+19.39)"
    )


def test_the_regularizer_on_sre2l_is_guard_in_the_table_of_other_methods(results):
    add(results, run({"clean": 40.0, "pgd100": 30.0}), scale="paper")
    assert rows(text_of(results), "10", "guard", "ours")[-1][:3] == [
        "1",
        "40.00 ± 4.90 (+9.24)",
        "30.00 ± 4.58 (+7.69)",
    ]


def test_another_epsilon_and_fewer_images_are_told_and_give_no_difference(results):
    record = run(
        {"clean": 40.0, "pgd100": 30.0},
        epsilon=2 / 255,
        protocols=("custom (paper at epsilon 2/255)",),
        first=10,
    )
    add(results, record, scale="paper", dataset="imagenette")
    text = text_of(results)
    assert rows(text, "10", "guard", "ours")[0][:3] == ["1", "40.00 ± 4.90 (-17.93)", "30.00 ± 4.58"]
    assert (
        "**Not the protocol's own evaluation**: imagenette, 10 images per class, guard: evaluated on 100"
        " validation images (the first 10 of each class), which leaves a standard error of up to 5.0 points,"
        " epsilon 2/255, protocol custom" in text
    )


def test_runs_at_cpu_size_stand_in_their_own_tables(results):
    for seed, clean in enumerate((40.0, 41.0, 42.0)):
        add(results, run({"clean": clean, "pgd100": 30.0}, seed=seed), seed=seed)
    text = text_of(results)
    ours, alone = text.split("The same tables at CPU size")
    assert not rows(ours, "10", "guard", "ours") and "reproduce.sh other-methods --seeds" in ours
    assert rows(alone, "10", "guard") == [["3", "41.00 ± 1.00", "30.00 ± 0.00"]]
    for told in (
        "teacher convnet-7 at 32 pixels",
        "4 epochs on the first 300 training images of each class",
        "250 iterations",
        "200 epochs",
    ):
        assert told in alone


def test_a_run_without_a_published_counterpart_is_not_lost(results):
    add(results, run({"clean": 12.25}), scale="paper", dataset="cifar100", arm="guard-squared")
    assert rows(text_of(results), "10", "guard-squared")[0][:2] == ["1", "12.25 ± 3.28"]


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
    assert rows(standard, "10", "guard")[0] == [
        "1",
        "40.00 ± 4.90",
        "-",
        "-",
        "9.50 ± 2.93",
        "-",
        "-",
        "8.50 ± 2.79",
    ]
    assert "10.50" in paper and "9.50" not in paper.split("at CPU size")[1]


def test_autoattack_alone_is_no_protocol_standard(results):
    add(results, run({"clean": 40.0, "autoattack": 9.5}, protocols=("custom",)))
    assert "## Protocol standard" not in text_of(results)


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


@pytest.mark.parametrize(
    ("stage", "beside", "name", "values", "told"),
    [
        ("pretrain", {"augmentation": "shift"}, "flip", (True, False), False),
        ("pretrain", {"augmentation": "pad-crop"}, "flip", (True, False), True),
        ("relabel", {"mix": "none"}, "mix_alpha", (0.8, 1.0), False),
        ("relabel", {"mix": "mixup"}, "mix_alpha", (0.8, 1.0), True),
        ("recover", {"method": "random"}, "r_bn", (0.01, 1.0), False),
        ("recover", {"method": "sre2l"}, "r_bn", (0.01, 1.0), True),
        ("recover", {"method": "sre2l"}, "pack_images", (500, 100), False),
    ],
)
def test_a_setting_that_no_stage_reads_mixes_nothing(results, stage, beside, name, values, told):
    for seed, value in enumerate(values):
        record = run({"clean": 40.0}, seed=seed)
        record[stage]["settings"] |= {**beside, name: value}
        add(results, record, seed=seed)
    assert ("their mean mixes settings" in text_of(results)) == told


def test_machine_and_commit_are_told(results):
    add(results, run({"clean": 40.0}))
    (results / "data.json").write_text(json.dumps({"copies": {"feedbeef" * 8: "a copy"}}))
    (row,) = rows(text_of(results), "cpu, cifar10")
    assert row == ["a machine", "2.11.0", "fp32", "feedbeeffeed (a copy)", "0123456789ab", "yes"]
    (results / "data.json").write_text('{"copies": null}')
    with pytest.raises(UserError, match="data.json has no object 'copies'"):
        text_of(results)


# ---- the swap of labels --------------------------------------------------------------------------


def squares(results, accuracies):
    """Runs of the four combinations; accuracies: (images, labels) -> (clean, PGD100) for seed 0; seed 1
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


def test_a_change_of_the_gradient_over_another_step_is_not_shown(results):
    for h, shown in ((1.0, None), (3.0, 1.0)):  # of the recipe of CIFAR-10
        record = run({"clean": 50.0})
        record["pretrain"]["settings"]["dataset"] = "cifar10"
        record["pretrain"]["results"]["curvature"]["h"] = h
        assert groups.curvature(record, "gradient_change") == shown
        assert groups.curvature(record, "along_z") == 2.0


def test_swapped_runs_stand_in_no_other_table(results):
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


def test_a_swap_from_the_teacher_of_another_seed_is_told(results):
    for seed in (0, 1):
        for images, labels in (("sre2l", "sre2l"), ("guard", "guard"), ("guard", "sre2l")):
            record = run({"clean": 50, "pgd100": 10}, seed=seed)
            record["recover"]["teacher"] = f"{images} {seed}"
            record["relabel"]["teacher"] = f"{labels} {seed if images == labels else 0}"
            arm = images if images == labels else f"images {images}, labels {labels}"
            add(results, record, arm=arm, images=images, labels=labels, seed=seed)
    warned = [line for line in text_of(results).splitlines() if line.startswith("**Warning**")]
    assert len(warned) == 1 and "relabel did not use the teacher of sre2l with seed 1" in warned[0]


def test_students_of_which_one_was_not_attacked_have_no_mean(results):
    for seed, met in enumerate(({"clean": 50, "pgd100": 10}, {"clean": 52})):
        add(results, run(met, seed=seed), arm="sre2l", seed=seed)
    (group,) = gathered(results)
    assert swap._student(group, "clean") == "51.00 ± 1.41 [2]" and swap._student(group, "pgd100") == "-"


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


# ---- one setting changed -------------------------------------------------------------------------


def test_a_table_at_cpu_size_holds_what_is_planned_for_it(results):
    """Not the swap's students, which have another size and other attacks."""
    add(results, run({"clean": 41.0, "pgd100": 30.0}), size=5, arm="cda")
    add(results, run({"clean": 42.0, "pgd20": 30.0}), size=10, arm="sre2l")
    table, other = (
        text_of(results).split("other-methods, CPU size: cifar10")[1].split("other runs, CPU size: cifar10")
    )
    assert rows(table, "5", "cda") == [["1", "41.00 ± 4.92", "30.00 ± 4.58"]] and not rows(table, "10")
    assert rows(other, "10", "sre2l")[0] == ["1", "42.00 ± 4.94", "30.00 ± 4.58"]


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


# ---- what was not run, and what is uncertain -----------------------------------------------------


def test_what_was_not_run_is_one_line_with_its_command(results):
    add(results, run({"clean": 40.0}), size=1, arm="cda", table="other-methods")
    of_one = "(cifar10: sre2l, guard, cda+guard, cda of 5 images per class):"
    assert f"- other-methods. Not run yet {of_one}" in text_of(results)
    add(results, run({"clean": 41.0}), size=5, arm="cda", table="other-methods")
    lines = [line for line in text_of(results).splitlines() if "Not run yet" in line]
    assert (
        "- other-methods. Not run yet (cifar10: sre2l, guard, cda+guard): `bash results/reproduce.sh"
        f" other-methods --scale cpu --seeds 0,1,2 --results {results}`, no estimate." in lines
    )
    digits = f"- digits. Not run yet: `bash results/reproduce.sh digits --seeds 0,1,2 --results {results}`"
    assert f"{digits}, no estimate." in lines
    of_runs = sum(len(plan.scales_of(table)) for table in plan.TABLES)
    assert len(lines) == len(set(lines)) == of_runs + 1  # and the overhead


def test_a_finished_table_is_not_called_not_run(results):
    _, planned = plan.TABLES["digits"]["digits"]
    for arm in planned:
        add(results, run({"clean": 40.0}), scale="recipe", dataset="digits", arm=arm, table="digits")
    text = text_of(results)
    assert "reproduce.sh digits" not in text
    assert rows(text.split("the recipe's size: digits")[1], "10", "guard")[0] == ["1", "40.00 ± 4.90"]


def test_a_teacher_of_several_arms_has_one_row(results):
    """That of the arm with the most runs; one whose students have real images alone has its row, too."""
    at = {"scale": "recipe", "dataset": "digits", "table": "digits"}
    add(results, run({"clean": 40.0}), arm="sre2l", **at)
    for seed in range(2):
        add(results, run({"clean": 40.0}), arm="random", seed=seed, **at)
        add(results, run({"clean": 40.0}), arm="random-hard", seed=seed, **at)
    add(results, run({"clean": 40.0}), arm="random+guard", **at)
    text = text_of(results).split("The teachers:")[1].split("Setting")[0]
    shown = [line.split(" | ")[1:3] for line in text.splitlines() if line.startswith("| 10 |")]
    assert shown == [["random", "2"], ["random+guard", "1"]]


def test_a_run_by_other_settings_than_the_plans_is_still_to_do(results, monkeypatch):
    add(results, run({"clean": 40.0}), scale="recipe", dataset="digits", arm="nfgsm", table="digits")
    with monkeypatch.context() as patched:
        before = dataclasses.replace(arms.ARMS["guard"], stages="pretrain --epochs 3")
        patched.setitem(arms.ARMS, "guard", before)
        add(results, run({"clean": 40.0}), scale="recipe", dataset="digits", arm="guard", table="digits")
    assert "- digits. Not run yet (digits: sre2l, guard, guard-batch, sre2l-hard, " in text_of(results)


def test_the_time_of_what_was_not_run_comes_from_the_estimates(results):
    not_run.keep("main", "cpu", 30.04, "a machine", results)
    not_run.keep("main", "paper", 6000.0, "a GPU", results)
    text = text_of(results)
    assert (
        f"main --scale cpu --seeds 0,1,2 --results {results}`, about 30 minutes for seed 0 on a machine."
        in text
    )
    assert f"main --seeds 0,1,2 --results {results}`, about 4 days for seed 0 on a GPU." in text
    (results / "estimates.json").write_text('{"estimates": {"cpu/main": 3}}')
    with pytest.raises(UserError, match="estimates.json"):
        text_of(results)


def test_a_folder_of_any_name_stands_in_the_command_as_one_would_type_it():
    assert not_run.elsewhere("/some/of my/results") == " --results '/some/of my/results'"


def test_a_run_without_the_curve_that_its_table_shows_is_not_done(results, monkeypatch):
    monkeypatch.setitem(plan.TABLES, "frontier", {"cifar10": ((10,), ("random/plain", "random/guard"))})
    at = {"scale": "full-cpu", "dataset": "cifar10", "table": "frontier"}
    curve = {"attack": "pgd100", "epsilon": [0.0, 2 / 255], "accuracy": [60.0, 30.0], "images": 100}
    record = run({"clean": 50.0, "pgd100": 40.0})
    add(results, record, arm="random/plain", curve=curve, **at)
    add(results, record, arm="random/guard", **at)
    told = "- frontier. Not attacked within a second epsilon yet (cifar10: random/guard): `bash"
    assert told in text_of(results)
    add(results, record, arm="random/guard", curve=curve, **at)
    assert "- frontier. " not in text_of(results)


def test_no_accuracy_of_ours_stands_without_its_interval():
    ours = text_of(RESULTS).split("## By the data set's own recipe")[1].split("## Overhead")[0]
    cells, header = [], []
    for line in ours.splitlines():
        found = (
            [cell.strip() for cell in line.split("|")]
            if re.match(r"\| (?!(\d+ \| )?published: )", line)
            else []
        )
        header = (header or found) if found else []  # the first line of a table
        # Of a single teacher's curvature no interval is known.
        cells += [cell for name, cell in zip(header, found) if name not in swap.CURVATURE.values()]
    assert sum("±" in cell for cell in cells) > 400
    assert not [cell for cell in cells if re.fullmatch(r"[+-]?\d+\.\d+( \[\d+\])?", cell)]


def test_what_a_single_run_changes_is_as_uncertain_as_its_images_leave_it(results):
    add(results, run({"clean": 80.0}), arm="sre2l")
    add(results, run({"clean": 50.0}))
    plain, robust = gathered(results)
    found, seeds = groups.change(robust, plain, "clean")
    assert seeds == 1 and found == pytest.approx((-30.0, (16 + 25) ** 0.5))


def test_a_curve_has_the_epsilons_that_all_runs_have(results):
    for seed, (middle, clean) in enumerate(((2 / 255, 50.0), (4 / 255, 60.0))):
        accuracy = [clean, 20.0 + seed, 0.0]
        curve = {"attack": "pgd100", "epsilon": [0.0, middle, 1.0], "accuracy": accuracy, "images": 100}
        add(results, run({"clean": clean}, seed=seed), seed=seed, curve=curve)
    (group,) = gathered(results)
    found = groups.curve(group)
    assert list(found) == [0.0, 1.0] and found[0.0] == pytest.approx((55.0, 50**0.5))


def test_one_run_under_pgd100_makes_it_the_robust_attack(results):
    add(results, run({"clean": 50.0, "pgd20": 30.0}), arm="sre2l")
    assert groups.robust_attack(gathered(results)) == "pgd20"
    add(results, run({"clean": 50.0, "pgd100": 30.0}))
    assert groups.robust_attack(gathered(results)) == "pgd100"


def test_a_folder_still_means_an_experiment(tmp_path, capsys):
    assert command("guard.report.__main__", tmp_path) == 2
    assert "name the folder of an experiment" in capsys.readouterr().err


def test_records_of_another_folder_have_tables_there(tmp_path, capsys, refused):
    """Beside them the published numbers, the figures, and the copy of the data: what the repository knows."""
    own = tmp_path / "own"
    assert f"no run is recorded in {own}" in refused("guard.report", "--results", own)
    add(own, run({"clean": 40.0, "pgd100": 30.0}), arm="sre2l")
    add(own, run({"clean": 41.0, "pgd100": 31.0}), arm="guard")
    assert command("guard.report", "--results", own) == 0
    text = (own / "TABLES.md").read_text()
    assert f"{own / 'TABLES.md'}, " in capsys.readouterr().out
    main = json.loads((RESULTS / "published.json").read_text())["tables"]["main"]["imagenette"]["10"]
    assert f"| {main['sre2l']['clean']:.2f} |" in text and list((own / "figures").glob("*.png"))
    assert f"reproduce.sh digits --seeds 0,1,2 --results {own}`" in text
    assert "beside" in refused("guard.report", "--results", own, tmp_path)


@pytest.mark.parametrize(
    ("values", "shown"),
    [((64.3, 62.6), "63.5"), ((61.0, 62.3), "61.7"), ((-1.2, -0.7), "-1.0"), ((-0.5, 0.4), "-0.1")],
)
def test_what_lies_halfway_is_rounded_away_from_zero(values, shown):
    """As by hand; floats of such means lie now above and now below, and their format rounds to even."""
    mean = sum(values) / 2
    assert markdown.points(mean, 1) == shown
    assert markdown.number((mean / 10, None)) == f"{float(shown) / 10:.2f}"
    assert markdown.points(abs(mean), 1, "+") == f"+{shown.lstrip('-')}"

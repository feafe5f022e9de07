"""Several experiments in one table."""

import copy
import statistics

import pytest
from conftest import command
from recorded import run

from guard.errors import UserError
from guard.paper.comparison import compare
from guard.report.experiment import STAGES
from guard.run import records


def experiment(folder, clean, robust, *, seed, epsilon=1 / 255, teacher=(), student=(), stages=STAGES):
    """A folder with the record of a finished experiment; teacher, student: settings of theirs."""
    record = copy.deepcopy(run({"clean": clean, "pgd100": robust}, seed=seed, epsilon=epsilon))
    record["train"]["seed"] = seed
    record["pretrain"]["settings"] |= dict(teacher)
    record["recover"]["teacher"] = f"t{seed}"
    record["train"]["settings"] |= dict(student)
    student = record["evaluate student"]
    student["key"] = {"dataset": "digits", "data": "d", "seed": seed}
    record["evaluate teacher"] |= {name: student[name] for name in ("key", "epsilon", "images")}
    for name in (*stages, "evaluate student", "evaluate teacher"):
        entry = record[name]
        records.update(folder / "log.json", name, entry)
    return folder


@pytest.fixture
def folders(tmp_path):
    """Two arms of three seeds."""
    made = []
    for seed, (clean, robust) in enumerate([(90, 20), (92, 26), (88, 23)]):
        made.append(experiment(tmp_path / f"plain-{seed}", clean, robust, seed=seed))
    for seed, (clean, robust) in enumerate([(88, 50), (91, 53), (84, 50)]):
        bent = {"curvature": True, "lambda": 30.0}
        made.append(experiment(tmp_path / f"guard-{seed}", clean, robust, seed=seed, teacher=bent))
    return made


def cells(text, *first):
    """The cells of the row that begins with these."""
    (line,) = (line for line in text.splitlines() if line.startswith("| " + " | ".join(first) + " |"))
    return [cell.strip() for cell in line.strip("|").split("|")][len(first) :]


def test_seeds_are_averaged_and_compared_pair_by_pair(folders, capsys):
    assert command("guard.report", *folders) == 0
    text = capsys.readouterr().out
    assert cells(text, "plain", "student") == ["3", "90.00 ± 2.00", "23.00 ± 3.00"]
    deviation = statistics.stdev([88, 91, 84])
    assert cells(text, "guard", "student")[1] == f"87.67 ± {deviation:.2f}"
    assert cells(text, "guard", "teacher") == ["3", "80.00 ± 0.00", "50.00 ± 0.00"]
    deviation = statistics.stdev([30, 27, 27])
    assert cells(text, "guard", "3") == [
        f"-2.33 ± {statistics.stdev([-2, -1, -4]):.2f}",
        f"+28.00 ± {deviation:.2f}",
    ]
    assert "± the standard deviation over the seeds, epsilon 1/255." in text
    told = "guard, unlike plain: pretrain curvature True instead of False; pretrain lambda 30.0;"
    assert told in text.replace("pretrain regularizer gradient-norm; ", "")


def test_students_of_several_devices_are_compared_where_they_are_named(folders):
    entry = records.read(folders[-1] / "log.json")["evaluate student"]
    entry["environment"] |= {"device": "a GPU"}
    records.update(folders[-1] / "log.json", "evaluate student", entry)
    assert len(cells(compare(folders), "guard", "3")) == 2


def test_a_row_of_one_run_has_its_images_error_and_other_seeds_are_no_pair(folders, tmp_path):
    alone = experiment(tmp_path / "long", 95, 30, seed=7, student={"temperature": 4.0})
    text = compare([folders[0], folders[1], alone])
    assert cells(text, "long", "student") == ["1", "95.00 ± 2.18", "30.00 ± 4.58"]
    assert cells(text, "long", "0") == ["-", "-"]
    assert "long, unlike plain: train temperature 4.0 instead of 30.0." in text
    assert "or of one run the standard error of 100 images" in text


def test_experiments_that_share_a_teacher_say_nothing_of_other_teachers(folders):
    for folder, teacher in zip(folders[:3], ("a", "a", "b")):
        key = records.read(folder / "log.json")["evaluate teacher"].get("key", {})
        change(folder, "evaluate teacher", key=key | {"fingerprint": teacher})
    text = compare(folders[:3])
    assert cells(text, "plain", "student")[0] == "3" and cells(text, "plain", "teacher")[0] == "2"


def test_settings_that_only_one_of_two_has_are_told_whichever_comes_first(folders):
    plain, guard = folders[0], folders[3]
    there, back = (compare(pair).splitlines()[-1] for pair in ((plain, guard), (guard, plain)))
    assert "curvature True instead of False" in there and "pretrain lambda 30.0" in there
    assert "curvature False instead of True" in back and "no pretrain lambda" in back


def test_runs_that_differ_in_views_or_in_whose_labels_they_are_are_no_seeds_of_one_row(folders, tmp_path):
    """Of hard labels' views stage train alone tells; whose labels they are, two fingerprints."""
    hard = []
    for seed, mix in enumerate(("none", "cutmix")):
        views = {"labels": {"mix": mix, "seed": seed}, "teacher": None, "images": "a file"}
        hard.append(
            experiment(tmp_path / f"hard-{seed}", 50, 10, seed=seed, student=views, stages=("train",))
        )
    text = compare(hard)
    assert cells(text, "hard-0", "student")[0] == cells(text, "hard-1", "student")[0] == "1"
    assert "hard-1, unlike hard-0: relabel mix cutmix instead of none; " in text
    swapped = [
        experiment(tmp_path / f"swapped-{seed}", 70, 40, seed=seed, student={"teacher": "another"})
        for seed in (1, 2)
    ]
    text = compare([folders[0], *swapped])
    assert "swapped-1, unlike plain-0: train images of teacher t1." in text
    assert "plain-0, unlike swapped-1: no train images of teacher." in compare([swapped[0], folders[0]])
    assert cells(text, "swapped-1", "student")[0] == cells(text, "swapped-2", "student")[0] == "1"


def test_a_rows_name_is_what_its_folders_have_in_common(folders, tmp_path):
    """Not half a number of theirs, and nothing that another row is called."""
    for place, (names, named) in enumerate(
        [(("plain-10", "plain-11"), "plain"), (("24", "25"), "24, 25"), (("a-seed0", "a-seed1"), "a")]
    ):
        made = [
            experiment(tmp_path / str(place) / name, 80, 30, seed=seed) for seed, name in enumerate(names)
        ]
        assert cells(compare(made), named, "student")[0] == "2"
    other = [
        experiment(tmp_path / f"plain-{seed}", 80, 30, seed=seed, student={"temperature": 4.0})
        for seed in (3, 4)
    ]
    assert "plain-3, plain-4, unlike plain-0, plain-1:" in compare([*folders[:2], *other])


def change(folder, name, **changes):
    records.update(folder / "log.json", name, records.read(folder / "log.json")[name] | changes)
    return folder


def test_only_attacks_that_all_students_met_are_shown(folders):
    for folder in folders[:2]:
        found = records.read(folder / "log.json")["evaluate student"]["attacks"]
        change(folder, "evaluate student", attacks=found | {"cw": {"accuracy": 1.0}})
    assert "| cw |" in compare(folders[:2]) and "| cw |" not in compare(folders[:3])


def test_attacks_that_some_students_did_not_meet_are_named(folders):
    found = records.read(folders[0] / "log.json")["evaluate student"]["attacks"]
    change(folders[0], "evaluate student", attacks=found | {"cw": {"accuracy": 1.0}})
    assert "Left out, since not all students met them: cw." in compare(folders[:3])
    assert "Left out" not in compare(folders[1:3])


def test_a_stage_that_one_record_does_not_tell_of_is_no_list_of_differences(folders, tmp_path):
    """A student by hand, whose images and labels have records of their own."""
    views = {"labels": {"epochs": 200, "seed": 0}}
    alone = experiment(tmp_path / "by-hand", 80, 30, seed=0, student=views, stages=("pretrain", "train"))
    told = compare([folders[0], alone]).splitlines()[-1]
    assert told.endswith("unlike plain-0: recover is not recorded."), told
    told = compare([alone, folders[0]]).splitlines()[-1]
    assert told.endswith("unlike by-hand: recover is recorded."), told


def test_the_labels_that_a_student_learnt_from_count_whatever_else_was_recorded(folders):
    """As of an earlier student of that place."""
    changed = records.read(folders[1] / "log.json")["train"]["settings"]
    change(folders[1], "train", settings=changed | {"labels": {"epochs": 200, "mix": "none", "seed": 1}})
    assert "relabel mix none instead of" in compare(folders[:2])


def test_images_that_were_recovered_again_are_not_told_as_the_students(folders, capsys):
    """As after recover --force alone: the record has the new images beside the student of the old ones."""
    for folder in folders[:2]:
        settings = records.read(folder / "log.json")["train"]["settings"]
        change(folder, "train", settings=settings | {"images": "old"})
        change(folder, "recover", fingerprint="old")
    of_new = records.read(folders[1] / "log.json")["recover"]["settings"] | {"iterations": 40}
    change(folders[1], "recover", fingerprint="new", settings=of_new)
    told = compare(folders[:2])
    assert told.endswith("unlike plain-0: recover is not recorded."), told
    (line,) = capsys.readouterr().err.splitlines()
    assert "its entry 'recover' is of other images than the student's, and left out" in line


def test_an_evaluation_of_an_earlier_student_is_none(folders, capsys):
    """As after a stop between train --force and its attacks."""
    evaluation = records.read(folders[0] / "log.json")["evaluate student"]
    change(folders[0], "evaluate student", key=evaluation["key"] | {"fingerprint": "earlier"})
    change(folders[0], "train", fingerprint="earlier")
    assert "| plain | student | 2 |" in compare(folders[:2])
    change(folders[0], "train", fingerprint="later")
    with pytest.raises(UserError, match="plain-0/log.json has no evaluat"):
        compare(folders[:2])
    assert "'evaluate student' is of an earlier student" in capsys.readouterr().err


def test_a_teacher_of_two_students_has_the_error_of_its_images(folders):
    """Several students, one teacher: no deviation over seeds stands beside that."""
    for folder in folders[:3]:
        key = records.read(folder / "log.json")["evaluate teacher"].get("key", {})
        change(folder, "evaluate teacher", key=key | {"fingerprint": "one"})
    text = compare(folders[:3])
    assert cells(text, "plain", "teacher")[:2] == ["1", "80.00 ± 4.00"]
    assert "over the seeds, or of one run the standard error of 100 images" in text


def test_a_teacher_that_was_attacked_otherwise_stands_in_no_table_of_the_students(folders):
    """As one whose attack anew was stopped."""
    log = folders[0] / "log.json"
    found = records.read(log)["evaluate teacher"]
    records.update(log, "evaluate teacher", {**found, "epsilon": 12 / 255})
    text = compare([folders[0], folders[3]])
    assert "plain-0 | teacher" not in text and cells(text, "guard-0", "teacher")[0] == "1"
    assert "Left out, since attacked on other images or within another epsilon: teacher of plain-0." in text
    assert "Left out" not in compare([folders[1], folders[3]])


def test_experiments_of_one_name_are_told_by_their_places(folders, tmp_path):
    other = experiment(tmp_path / "other/plain-0", 80, 10, seed=0, student={"temperature": 2.0})
    text = compare([folders[0], other])
    assert cells(text, str(folders[0]), "student") and cells(text, str(other), "student")
    assert f"Students, less those of {folders[0]} with the same seed" in text


def test_a_record_without_its_training_is_told(folders):
    entries = records.read(folders[0] / "log.json")
    records.change(folders[0] / "log.json", {"train": None})
    assert {*entries} - {*records.read(folders[0] / "log.json")} == {"train"}
    with pytest.raises(UserError, match="says nothing of its student's training"):
        compare(folders[:2])


def test_what_follows_from_seed_and_machine_makes_no_other_row(folders):
    for seed, folder in enumerate(folders[:3]):
        settings = records.read(folder / "log.json")["recover"]["settings"]
        drawn = {"seed": seed, "pack_images": 10 + seed}
        change(folder, "recover", settings=settings | drawn)
    assert cells(compare(folders[:3]), "plain", "student")[0] == "3"


def test_teachers_of_other_training_images_are_no_seeds_of_one_row(folders):
    settings = records.read(folders[1] / "log.json")["pretrain"]["settings"]
    change(folders[1], "pretrain", settings=settings | {"data": "of another copy"})
    assert "plain-1, unlike plain-0: pretrain data of another copy instead of" in compare(folders[:2])


@pytest.mark.parametrize("changes", [{"images": 99}, {"key": {"dataset": "digits", "data": "e"}}])
def test_evaluations_on_other_images_are_not_compared(changes, folders):
    change(folders[1], "evaluate student", **changes)
    with pytest.raises(UserError, match="plain-1 was attacked on other images"):
        compare(folders[:2])


def test_what_cannot_be_compared_is_refused(folders, tmp_path, refused):
    wider = experiment(tmp_path / "wider", 90, 10, seed=0, epsilon=2 / 255)
    with pytest.raises(UserError, match="wider was attacked on other images, or within another epsilon"):
        compare([folders[0], wider])
    again = experiment(tmp_path / "again", 90, 10, seed=0)
    with pytest.raises(UserError, match="plain-0 and .*again have the same settings and seed"):
        compare([folders[0], again])
    assert "no record at" in refused("guard.report", folders[0], tmp_path / "nowhere")
    assert "--html writes the page of one" in refused("guard.report", *folders, "--html")


def test_what_the_checks_say_of_an_evaluation_stands_below_the_table(folders):
    assert "warning" not in compare(folders)
    change(folders[1], "evaluate student", warnings=["the gradient is zero on 2 % of the images"])
    told = f"{folders[1]}, student, warning: the gradient is zero on 2 % of the images."
    assert [line for line in compare(folders).splitlines() if "warning" in line] == [told]

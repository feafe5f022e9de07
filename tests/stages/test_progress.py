"""Away from a terminal a stage says what it will do, how far it is, and what came out, in few lines."""

import pytest
from conftest import TOY, command

from guard import attacks
from guard.run import progress, stage
from guard.run.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it: clock[0] += seconds."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("steps", "seconds"), [(2, 1.0), (30, 0.01), (2000, 0.5), (2000, 30.0)])
def test_lines_are_few_and_even_in_time_and_hold_the_first_and_the_last(steps, seconds, clock, capsys):
    printed_at = []
    with Progress("work", steps, "step", about=f"{steps} steps") as shown:
        for number in range(steps):
            clock[0] += seconds
            shown.step()
            shown.line(f"step {number + 1}")
            lines = capsys.readouterr().out.splitlines()
            printed_at += [(number + 1, line) for line in lines]
    rows = [(number, line) for number, line in printed_at if "step " in line]
    assert printed_at[0][1].startswith(f"work: {steps} steps")
    assert rows[0][1].startswith("work: step 1") and rows[-1][1] == f"work: step {steps}"
    assert 2 <= len(rows) <= progress.LINES
    gaps = [(after - before) * seconds for (before, _), (after, _) in zip(rows, rows[1:-1])]  # noqa: RUF007
    if steps == 2000:
        assert len(rows) >= progress.LINES - 2 and max(gaps) <= 1.2 * min(gaps)


def test_the_first_line_says_how_long_it_takes(clock, capsys):
    with Progress("work", 100, "step", about="much to do") as shown:
        for _ in range(5):
            clock[0] += 2.0
            shown.step()
    assert capsys.readouterr().out.splitlines() == ["work: much to do; about 3 min 20 s"]


def test_a_slow_first_step_says_nothing_of_the_others(clock, capsys):
    """It makes buffers, reads files, warms up."""
    with Progress("work", 100, "step", about="much to do") as shown:
        for seconds in (60.0, *[1.0] * 9):
            clock[0] += seconds
            shown.step()
    assert capsys.readouterr().out.splitlines() == ["work: much to do; about 2 min 39 s"]


def test_work_whose_speed_changes_still_stays_below_the_limit(clock, capsys):
    """It starts slow, so that much time seems to be left, and ends fast; and the other way round."""
    for speeds in ((50.0, 0.001), (0.001, 50.0)):
        with Progress("work", 3000, "step") as shown:
            for number in range(3000):
                clock[0] += speeds[number > 20]
                shown.step()
                shown.line(f"step {number + 1}")
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= progress.LINES and lines[-1] == "work: step 3000"


def test_a_stage_of_many_epochs_prints_few_lines(toy, tmp_path, capsys, monkeypatch):
    """Square has few queries here: an attack's lines are as many."""
    short = {"queries": 150, "p_init": 0.8}
    monkeypatch.setitem(attacks.ATTACKS, "square", attacks.ATTACKS["square"]._replace(settings=short))
    teacher = ["--teacher", toy / "teacher/checkpoint.pt", "--distilled", toy / "images"]
    assert command("relabel", *teacher, "--output", tmp_path / "labels", "--epochs", 90) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) <= 30 and lines[0].startswith(
        "relabel: 90 of 90 epochs of labels to make, for 4 images"
    )
    assert lines[-1].startswith("relabel: 90 epochs of labels for 4 images; ") and str(tmp_path) in lines[-1]
    data = [
        "--dataset",
        "toy",
        "--root",
        toy,
        "--labels",
        tmp_path / "labels",
        "--output",
        tmp_path / "student",
    ]
    assert command("train", *data, *teacher, *TOY["train"], "--protocol", "both") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" not in line]
    assert len(lines) <= 30, lines
    assert lines[0] == "student: convnet-32, 90 epochs of 4 labelled images"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599.4, "59 min 59 s"), (7265, "2 h 01 min")],
)
def test_durations(seconds, words):
    assert stage.duration(seconds) == words

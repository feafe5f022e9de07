"""Killed at any instant, a stage goes on when its command is given again, and ends with the same files,
bit for bit.

The driver's test, which starts run.sh itself, is slow: bash tests/run.sh -m slow tests/damage/test_kill.py
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import forked
import pytest
from conftest import ROOT, TOY

from guard.run import storage

KILLS = 20
VOLATILE = {
    "seconds",
    "date",
    "peak bytes",
    "command",
    "commit",
}  # of records: what differs between two runs of the same thing


def save_often():
    """A training state after each epoch, and four attacks to be killed in. All of them are short: the less
    time between two writes, the more of the kills hit one.
    """
    from guard import attacks
    from guard.networks.training import Training
    from train import evaluation

    Training.__init__.__defaults__ = (0,)  # seconds between two states
    attacks.PROTOCOLS["quick"] = ("pgd20", "mim", "cw", "apgd-ce-10")
    evaluation.CURVE_ATTACK = "pgd20"


@pytest.fixture(scope="module", autouse=True)
def server():
    """Has everything imported before anything is timed."""
    process = forked.forkserver.Process(target=os.getpid)
    process.start()
    process.join()


def start(words, folder):
    return forked.start(words, f"{folder}.err", before=save_often)


def finish(words, folder):
    """Runs a stage to its end; the seconds it took."""
    started = time.monotonic()
    process = start(words, folder)
    process.join(120)
    errors = (folder.parent / f"{folder.name}.err").read_text()
    assert process.exitcode == 0, errors
    return time.monotonic() - started


def without_volatile(contents):
    if isinstance(contents, dict):
        return {name: without_volatile(value) for name, value in contents.items() if name not in VOLATILE}
    return [without_volatile(value) for value in contents] if isinstance(contents, list) else contents


def files(folder):
    """path -> contents of every file; of records, whose seal hashes the time of day as well, all that
    has to be the same.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            contents = path.read_bytes()
            if path.suffix == ".json" and path.name != "manifest.json":
                contents = without_volatile(json.loads(contents))
                del contents[storage.SEAL]
            elif path.suffix == ".md":
                contents = re.sub(r"[0-9.]+ seconds|commit [^,]+", "", contents.decode())
            found[str(path.relative_to(folder))] = contents
    return found


def words_of(name, toy, folder):
    """The command of a stage with `folder` as its output, long enough to be killed in many places."""
    teacher, distilled = toy / "teacher/checkpoint.pt", toy / "images"
    data = ["--dataset", "toy", "--root", toy]
    recorded = ["--record", folder / "log.json"]
    evaluated = ["train.evaluate", *data, "--checkpoint", teacher, *recorded, "--workers", 0]
    return {
        "pretrain": ["pretrain", *data, "--output", folder, *TOY["pretrain"], "--epochs", 12, "--curvature"],
        "recover": [
            *["recover", "--teacher", teacher, "--output", folder],
            *["--images-per-class", 12, "--iterations", 12, "--pack-images", 2],
        ],
        "relabel": [
            *["relabel", "--teacher", teacher, "--distilled", distilled, "--output", folder, "--epochs", 60]
        ],
        "train": [
            *["train", *data, "--teacher", folder / "teacher/checkpoint.pt", "--distilled", distilled],
            *["--labels", toy / "labels", "--output", folder / "student", *recorded],
            *[*TOY["train"], "--evaluate-every", 1],
        ],
        "evaluate": [*evaluated, "--protocol", "quick", "--epsilon", "2/255", "--attack-batch", 4],
        "curve": [*evaluated, "--epsilon", "0,1/255,2/255,4/255,8/255"],
    }[name]


def prepare(name, toy, folder):
    if name == "train":  # its teacher is evaluated as well, beside the teacher's own record
        (folder / "teacher").mkdir(parents=True)
        for part in ("checkpoint.pt", "log.json"):
            shutil.copy(toy / "teacher" / part, folder / "teacher")


def test_stages_killed_at_random_instants_end_with_the_same_files(toy, tmp_path):
    """Two stages at a time, each in a folder of its own."""
    names = ["train", "evaluate", "pretrain", "recover", "curve", "relabel"]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda name: kill_and_go_on(name, toy, tmp_path / name), names)) == [
            KILLS
        ] * len(names)


def kill_and_go_on(name, toy, tmp_path):
    """Kills a stage KILLS times; one that comes to its end before is begun anew, so that every kill hits
    work. Returns the kills.
    """
    tmp_path.mkdir()
    folder, random_instants = tmp_path / "run", random.Random(name)
    words = words_of(name, toy, folder)
    prepare(name, toy, folder)
    seconds = finish(words, folder)
    folder.rename(tmp_path / "whole")
    prepare(name, toy, folder)
    kills = goings_on = 0
    while kills < KILLS:
        process = start(words, folder)
        time.sleep(random_instants.uniform(0, 0.8 * seconds))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        goings_on += process.exitcode != 0 and goes_on(folder)
        if process.exitcode == 0:
            assert_same(tmp_path / "whole", folder)
            shutil.rmtree(folder)
            prepare(name, toy, folder)
    finish(words, folder)
    assert_same(tmp_path / "whole", folder)
    assert goings_on > KILLS // 2
    return kills


def goes_on(folder):
    """Whether a killed stage left finished parts to go on with."""
    states = [*folder.rglob("resume.pt"), *folder.rglob(".part_*.json")]
    results = [
        json.loads(path.read_text()) for name in ("log", "curve") for path in folder.glob(f"{name}.json")
    ]
    entries = [entry for each in results for entry in (each, *each.values()) if isinstance(entry, dict)]
    return bool(states) or any(entry.get("attacks") or entry.get("attacked") for entry in entries)


def assert_same(whole, resumed):
    whole, resumed = files(whole), files(resumed)
    assert set(whole) == set(resumed)
    for path in whole:
        assert whole[path] == resumed[path], path


def run_sh(output):
    return [
        "bash",
        "run.sh",
        "-p",
        "-C",
        "-u",
        "cpu",
        "-o",
        str(output),
        "-i",
        "40",
        "-c",
        "2",
        "-z",
        "8",
        "--",
        "pretrain",
        "--epochs",
        "4",
        "--images",
        "10",
        "--curvature-images",
        "10",
        "train",
        "--images",
        "1",
        "--protocol",
        "quick",
    ]


@pytest.mark.slow
def test_run_sh_killed_at_random_instants_ends_with_the_same_files(tmp_path):
    environment, random_instants = {**os.environ, "OMP_NUM_THREADS": "1"}, random.Random(0)
    started = time.monotonic()
    subprocess.run(run_sh(tmp_path / "run"), cwd=ROOT, env=environment, check=True, capture_output=True)
    seconds = time.monotonic() - started
    (tmp_path / "run").rename(tmp_path / "whole")
    for _ in range(10):
        process = subprocess.Popen(
            run_sh(tmp_path / "run"),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(random_instants.uniform(0, 0.6 * seconds))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        run_sh(tmp_path / "run"), cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "whole", tmp_path / "run")

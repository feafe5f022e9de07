"""run.sh: golden commands of its flags, and every wrong flag ends at once in one line and status 2."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT

TEACHER = "runs/teachers/{dataset}/{model}/{teacher}"


def run_sh(*words):
    return subprocess.run(["bash", "run.sh", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def commands(
    dataset="digits",
    model="convnet-32",
    teacher="1",
    labeller=None,
    experiment="24",
    root="data/raw",
    output="runs",
    launch="python -m",
    *,
    pretrain="",
    recover="",
    relabel="",
    train="",
    common="",
    first=True,
    relabelled=True,
):
    """The four commands as run.sh -n prints them, with what the flags add to each."""
    at, folder = f"{output}/teachers/{dataset}/{model}/{teacher}", f"{output}/{experiment}"
    made, labels = (
        f"--teacher {output}/teachers/{dataset}/{model}/{each}/checkpoint.pt"
        for each in (teacher, labeller or teacher)
    )
    lines = [
        f"{launch} pretrain --dataset {dataset} --root {root} --output {at} {common}{pretrain}",
        (
            f"{launch} recover --dataset {dataset} --root {root} {made} --output {folder}/images"
            f" --record {folder}/log.json {common}{recover}"
        ),
        (
            f"{launch} relabel --dataset {dataset} {labels} --distilled {folder}/images --output"
            f" {folder}/labels --record {folder}/log.json {common}{relabel}"
        ),
        (
            f"{launch} train --dataset {dataset} --root {root} {labels} --distilled {folder}/images --labels"
            f" {folder}/labels --output {folder}/student --record {folder}/log.json {common}{train}"
        ),
    ]
    if not first:
        lines[0] = f"# teacher: {at}/checkpoint.pt"
    if not relabelled:
        del lines[2]
    return [line.strip() for line in lines]


def test_cdpath_leads_nowhere_else(tmp_path, monkeypatch):
    """With it cd prints where it went, or goes to another folder of that name."""
    (tmp_path / ROOT.name).mkdir()
    monkeypatch.setenv("CDPATH", str(tmp_path))
    words = ["bash", f"{ROOT.name}/run.sh", "-n"]
    done = subprocess.run(words, cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "python -m train" in done.stdout
    (tmp_path / "results").mkdir()
    words = ["bash", "results/reproduce.sh", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: ")
    for name in ("run.sh", "tests/run.sh", "results/reproduce.sh"):
        lines = (ROOT / name).read_text().splitlines()
        before = lines[: next(number for number, line in enumerate(lines) if 'cd "$' in line)]
        assert any(line.startswith("unset CDPATH") for line in before), name


PUBLISHED = "-x 1 -y 1 -d imagenette -r /home/user/data/ -u 0 -b 10.0 -p -C -h 3.0 -l 100"
ON_IMAGENETTE = {"dataset": "imagenette", "model": "resnet18"}
GOLDEN = {
    "": {"first": False},
    "-p -C": {"pretrain": "--curvature "},
    PUBLISHED: {
        **ON_IMAGENETTE,
        "experiment": "1",
        "root": "/home/user/data/",
        "pretrain": "--curvature --lambda 100 --h 3.0 ",
        "recover": "--r-bn 10.0 ",
        "common": "--device 0 ",
    },
    "-d cifar10 -p -C -i 500 -b 1 -a 0.1 -z 30 -e resnet50 -c 5": {
        "dataset": "cifar10",
        "model": "resnet18",
        "pretrain": "--curvature ",
        "recover": "--iterations 500 --r-bn 1 --step-size 0.1 --images-per-class 5 ",
        "relabel": "--epochs 30 ",
        "train": "--epochs 30 --model resnet50 ",
    },
    "-d cifar100 -p -G -B 0.5 -v t": {
        "dataset": "cifar100",
        "model": "resnet18",
        "pretrain": (
            "--gradient-regularization --loss-beta 0.5 --gradient-beta 0.5 --trades-beta 0.5 --adversarial t "
        ),
    },
    "-d tiny-imagenet -p -C -G -v f -h 0.01": {
        "dataset": "tiny-imagenet",
        "model": "resnet18",
        "pretrain": "--curvature --gradient-regularization --adversarial f --epsilon 0.01 --h 0.01 ",
    },
    "-d cifar10 -p -v n -R modern": {
        "dataset": "cifar10",
        "model": "resnet18",
        "pretrain": "--adversarial n ",
        "relabel": "--recipe modern ",
        "train": "--recipe modern ",
    },
    "-p -v f": {"pretrain": "--adversarial f --epsilon 1.5 "},
    "-p -v f -h 0.1": {"pretrain": "--adversarial f --epsilon 0.1 "},
    "-p -I random -r data/here": {
        "root": "data/here",
        "recover": "--method random ",
    },
    "-d wolf -A -y 7 -x cda": {
        "dataset": "wolf",
        "model": "resnet18",
        "teacher": "7",
        "experiment": "cda",
        "recover": "--cda ",
        "first": False,
    },
    "-d imagenet -m resnet50 -e vit": {
        "dataset": "imagenet",
        "model": "resnet50",
        "train": "--model vit ",
        "first": False,
    },
    "-p -g": {
        "pretrain": "--epochs 2 --images 2 --val-images 2 --curvature-images 8 ",
        "recover": "--iterations 2 --images-per-class 2 ",
        "relabel": "--epochs 2 ",
        "train": "--epochs 2 --images 2 --val-images 2 --protocol quick ",
        "output": "runs/debug",
    },
    "-p -g -c 1 -i 5 -z 3": {
        "recover": "--iterations 2 --images-per-class 2 --images-per-class 1 --iterations 5 ",
        "relabel": "--epochs 2 --epochs 3 ",
        "train": "--epochs 2 --images 2 --val-images 2 --protocol quick --epochs 3 ",
        "pretrain": "--epochs 2 --images 2 --val-images 2 --curvature-images 8 ",
        "output": "runs/debug",
    },
    "-p -g -I random": {
        "pretrain": "--epochs 2 --images 2 --val-images 2 --curvature-images 8 ",
        "recover": "--images-per-class 2 --method random ",
        "relabel": "--epochs 2 ",
        "train": "--epochs 2 --images 2 --val-images 2 --protocol quick ",
        "output": "runs/debug",
    },
    "-p -- train --epochs 5 --reuse-labels": {"train": "--epochs 5 --reuse-labels "},
    "-p -- train --labels online --epochs 5 --gradient-weight 1 --input-gradients values": {
        "train": "--labels online --epochs 5 --gradient-weight 1 --input-gradients values ",
        "relabelled": False,
    },
    "-y guard -Y plain -x swap": {
        "teacher": "guard",
        "labeller": "plain",
        "experiment": "swap",
        "first": False,
    },
    "-p -m convnet-64": {"model": "convnet-64", "pretrain": "--model convnet-64 "},
    "-p -u 0,1 -s 3": {"launch": "python -m guard.launch 2", "common": "--device 0,1 --seed 3 "},
    "-p -u cpu -f -o out": {"output": "out", "common": "--device cpu --force "},
    "-p -s 3 -u cpu -- train --seed 5": {"common": "--seed 3 --device cpu ", "train": "--seed 5 "},
    "-p -- relabel --teacher-mode train train --images 5": {
        "relabel": "--teacher-mode train ",
        "train": "--images 5 ",
    },
    "-p -- train --images 5 pretrain --epochs 3 --images 9": {
        "pretrain": "--epochs 3 --images 9 ",
        "train": "--images 5 ",
    },
}


@pytest.mark.parametrize("flags", GOLDEN)
def test_the_commands_of_the_flags(flags):
    words = flags.split()
    place = words.index("--") if "--" in words else len(words)
    done = run_sh(*words[:place], "-n", *words[place:])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == commands(**GOLDEN[flags])


WRONG = {
    "-q": "no flag -q",
    "-d": "-d needs a value",
    "-p --epochs 3": "'--epochs' is no flag of run.sh",
    "-p -C -l": "-l needs a value",
    "-p -l abc": "'abc' is no number",
    "-p -l -1": "--lambda",
    "-p -h 0": "argument --h:",
    "-p -h nan": "argument --h:",
    "-p -B x": "--loss-beta",
    "-p -v z": "--adversarial",
    "-b ten": "--r-bn",
    "-b -1": "--r-bn",
    "-p -R nosuch": "--recipe",
    "-p -I nosuch": "--method",
    "-a 0": "--step-size",
    "-i 1.5": "--iterations",
    "-i 0": "--iterations",
    "-c 0": "--images-per-class",
    "-c ten": "--images-per-class",
    "-z 0": "--epochs",
    "-s one": "--seed",
    "-u gpu": "--device",
    "-u 0,": "--device",
    "-x ../elsewhere": "no name for a folder",
    "-y a/b": "no name for a folder",
    "-d a/b": "no name for a folder",
    "digits": "stands alone",
    "-p -- --epochs 3": "stands alone",
    "-p -- train --nosuch 3": "--nosuch",
    "-p -- pretrain --model convnet-64": "by -m",
    "-p -- train --model=convnet-64": "by -e",
    "-p -- recover --method dc": "by -I",
    "-p -- pretrain --output elsewhere": "run.sh gives pretrain its --output",
    "-p -- relabel --teacher=other.pt": "run.sh gives relabel its --teacher",
    "-p -- train --record other.json": "run.sh gives train its --record",
    "-p -- pretrain -d cifar100": "run.sh gives pretrain its -d",
    "-p -- train -r/elsewhere": "run.sh gives train its -r; choose",
    "-p -- train --attacks pgd20,nosuch": "there is no attack 'nosuch'; there are fgsm, pgd20",
    "-p -- relabel --epochs 5 train --epochs 60": "is to make labels for 5 epochs, and train asks for 60",
    "-p -- train --gradient-weight 1000": "--gradient-weight needs labels with the teacher's input gradients",
    "-p -- train --adversarial-share 1 --views-against teacher": "make them with --input-gradients signs",
    "-p -- train --labels hard": "-R dc",
    "-p -- relabel --mix none train --labels online": "no stage relabel to take --mix; with --labels online",
    "-p -- train --labels=hard": "-R dc",
    "-p -- train --epochs 3": "the same epochs",
    "-p -e alexnet -- pretrain --image-size 24": "does not take images of 24 pixels",
    "-p -- pretrain --image-size 4": "--image-size",
    "-p -d nosuch": "no data set 'nosuch'",
    "-p -d cifar10 -r /nosuch": "no data set 'cifar10'",
    "-p -m nosuch": "no model 'nosuch'",
    "-p -e nosuch": "no model 'nosuch'",
    "-p-": "there is no flag --",
    "-q -- pretrain --epochs 2": "there is no flag -q",
    "-- recover --check": "run.sh checks all flags itself",
    "-p -m vit": "no batch norm",
    "-p -e alexnet": "does not take images of 16 pixels",
    "-p -I dc -m vit -e alexnet": "does not take images of 16 pixels",  # the teacher may lack batch norm
    "-y 99": "no teacher",
    "-p -Y 99": "convnet-32/99/checkpoint.pt; train it by -p -y 99",
    "-p -Y a/b": "no name for a folder",
}


@pytest.mark.parametrize("flags", WRONG)
def test_a_wrong_flag_ends_before_any_work(flags, tmp_path):
    words = flags.split()
    done = run_sh("-o", str(tmp_path / "out"), *words)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1, (done.stdout, done.stderr)
    assert lines[0].startswith("error: ") and WRONG[flags] in lines[0]
    assert done.stdout == "" and not (tmp_path / "out").exists()


def test_files_of_a_stage_are_those_where_it_was_called(tmp_path):
    (tmp_path / "own.pt").touch()
    for between in (" ", "="):
        words = f"-n -p -- pretrain --weights{between}own.pt train --labels{between}own.pt".split()
        called = ["bash", ROOT / "run.sh", *words]
        done = subprocess.run(called, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert f"--weights{between}{tmp_path}/own.pt" in done.stdout
        assert f"--labels{between}{tmp_path}/own.pt" in done.stdout


@pytest.mark.parametrize("flag", "drxyYmoeclhBvbaiIRzus")
def test_an_empty_value_is_none(flag):
    """As of a variable that is not set; it would name the root of the file system."""
    done = run_sh(f"-{flag}", "", "-n")
    assert done.returncode == 2 and done.stderr.startswith(f"error: -{flag} needs a value")


def test_it_may_be_called_by_a_link_and_write_into_a_folder_with_a_dash(tmp_path):
    (tmp_path / "link").symlink_to(ROOT / "run.sh")
    words = ["bash", tmp_path / "link", "-n", "-o", "-e"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"# teacher: {tmp_path}/-e/teachers/digits/" in done.stdout
    assert done.stdout.startswith(f"# in {ROOT}\n")  # where these commands are to be given
    assert "# in " not in run_sh("-n").stdout
    here = run_sh("-n", "-o", "-e", "-r", "-data").stdout
    assert "--root ./-data" in here and "--output ./-e/" in here  # of the repository itself


def test_flags_of_a_teacher_that_is_not_trained_are_told():
    done = run_sh("-n", "-C", "--", "train", "--images", "5", "pretrain", "--epochs", "9")
    assert done.returncode == 0
    assert done.stderr == "note: without -p teacher 1 is used as it is, without regard to -C --epochs\n"
    assert run_sh("-n", "--", "train", "--images", "5").stderr == ""


@pytest.mark.parametrize("script", ["run.sh", "results/reproduce.sh"])
def test_without_a_python_it_says_so(script, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "readlink", "cat", "cksum", "cut"):
        (tools / name).symlink_to(shutil.which(name))
    copy = tmp_path / "copy"
    for name in (script, "guard/environment.sh"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)

    def called():
        words, only = ["bash", copy / script], {"PATH": str(tools)}
        return subprocess.run(words, env=only, capture_output=True, text=True, check=False)

    done = called()
    assert done.returncode == 2
    assert done.stderr == "error: there is no python here; install Python 3.11 or newer\n"
    (tools / "python3").write_text('#!/bin/sh\n[ "$1" != --version ] || echo Python 3.8.1\nexit 1\n')
    (tools / "python3").chmod(0o755)
    assert "python3 is Python 3.8.1; install Python 3.11" in called().stderr


def test_help_names_every_flag():
    done = run_sh("--help")
    assert done.returncode == 0
    assert all(f"\n  -{flag} " in done.stdout for flag in "drxyYmpeclhCGBvbaiAIRzusognf")


def test_a_stage_that_fails_stops_the_run(tmp_path):
    teacher = tmp_path / "teachers/digits/convnet-32/1/checkpoint.pt"
    teacher.parent.mkdir(parents=True)
    teacher.write_bytes(b"no checkpoint")
    done = run_sh("-o", str(tmp_path))
    assert done.returncode == 2 and "checkpoint.pt" in done.stderr and done.stdout == "== recover\n"


def test_a_stages_help_is_all_that_is_done(tmp_path):
    done = run_sh("-o", str(tmp_path / "out"), "-p", "--", "pretrain", "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m pretrain") and not done.stderr
    assert "== " not in done.stdout and not (tmp_path / "out").exists()


def test_a_stages_help_has_the_recipes_defaults():
    shown = run_sh("-d", "cifar10", "-R", "modern", "--", "relabel", "--help").stdout
    assert "settings of relabel (defaults of cifar10, recipe modern)" in shown


# A python that does nothing: it notes the stages that it is asked for, and one of them begins its work and is
# interrupted as WITH says, "STAGE STATUS FILE": what it then ends with, and what it wrote in its output.
IDLE = """#!/usr/bin/env bash
case "$2" in
guard.recipes) echo convnet-32 ;;
pretrain | recover | relabel | train)
    [[ " $* " == *" --force "* ]] && force=' --force' || force=''
    echo "$2${force}" >> "$NOTED"
    read -r stage status file <<< "$WITH"
    if [ "$stage" = "$2" ]; then
        while [ "$1" != --output ]; do shift; done
        [ -z "$file" ] || { mkdir -p "$2"; sleep 0.05; touch "$2/$file"; }
        trap : INT # as one that is about to end
        kill -INT 0
        exit "$status"
    fi
    ;;
esac
"""


@pytest.fixture
def idle(tmp_path):
    """Calls a run.sh whose stages do nothing. idle(*flags, interrupted="STAGE STATUS FILE") -> (what ended,
    the stages that were begun, each with its --force).
    """
    for name in ("run.sh", "guard/environment.sh"):
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "copy" / name)
    (tmp_path / "copy/requirements.txt").touch()
    python, noted = tmp_path / "tools/python3", tmp_path / "noted"
    python.parent.mkdir()
    python.write_text(IDLE)
    python.chmod(0o755)
    path = f"{python.parent}:{os.environ['PATH']}"

    def call(*words, interrupted=""):
        noted.write_text("")
        done = subprocess.run(
            ["bash", tmp_path / "copy/run.sh", *words],
            env={**os.environ, "PATH": path, "NOTED": str(noted), "WITH": interrupted},
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
        return done, noted.read_text().splitlines()

    return call


@pytest.mark.parametrize("status", [0, 130])
def test_an_interrupt_ends_the_run_whatever_its_stage_makes_of_it(status, idle):
    """One that is about to end no longer hears it, and the next would begin."""
    done, begun = idle("-p", interrupted=f"recover {status}")
    assert done.returncode == 130 and begun == ["pretrain", "recover"]
    expected = "interrupted; give the same command again to go on\n"
    assert done.stderr == (expected if status == 0 else "")  # else the stage said so


FIRST_FILES = {
    "pretrain": "resume.pt",
    "recover": "manifest.json",
    "relabel": "manifest.json",
    "train": "resume.pt",
}


@pytest.mark.parametrize("stopped", FIRST_FILES)
@pytest.mark.parametrize("begun", [True, False])
def test_a_forced_run_that_was_stopped_goes_on_without_force(begun, stopped, idle):
    """What it was stopped in is forced once more where nothing of it is new, and all that comes after it."""
    stages = list(FIRST_FILES)
    at = stages.index(stopped)
    forced = [f"{name} --force" for name in stages]
    at_once = f"{stopped} 0 {FIRST_FILES[stopped] if begun else ''}"
    done, found = idle("-p", "-f", interrupted=at_once)
    assert found == forced[: at + 1]
    assert done.stderr == "interrupted; give the same command again, without -f, to go on\n"
    printed = [line for line in idle("-p", "-n")[0].stdout.splitlines() if line.startswith("python")]
    wanted = stages[: at + begun] + forced[at + begun :]
    assert [" --force" in line for line in printed] == [" --force" in each for each in wanted]
    assert idle("-p")[1] == wanted
    assert idle("-p")[1] == stages


def test_a_forced_run_that_was_stopped_forces_nothing_of_another(idle, tmp_path):
    """Not the stages with other flags, nor the teacher, where it was not asked for."""
    teacher = tmp_path / "copy/runs/teachers/digits/convnet-32/1/checkpoint.pt"
    teacher.parent.mkdir(parents=True)
    teacher.touch()
    assert idle("-f", interrupted="recover 130")[1] == ["recover --force"]
    others = ["pretrain", "recover --force", "relabel", "train"]
    assert idle("-p", "-z", "5", interrupted="train 130")[1] == others
    assert idle("-p", interrupted="train 130")[1] == [
        "pretrain",
        "recover",
        "relabel --force",
        "train --force",
    ]

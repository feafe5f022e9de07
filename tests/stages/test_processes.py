"""Two processes over gloo make what one makes: images, labels and evaluation bit for bit, networks to
rounding.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import torch
from conftest import ROOT, TOY, command, toy_student

from guard import cli, ending, launch, recipes, torchrun
from guard.data import augment, find, images, loading
from guard.errors import UserError
from guard.method import schedules
from guard.networks import checkpoint, memory
from guard.run import devices, processes, records, seeds
from guard.run.manifest import Manifest
from pretrain import teacher

WITHOUT_A_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would need two GPUs")


def two(*words, start=subprocess.run, mark="", **options):
    """A stage in two processes, started as a user does."""
    command = [sys.executable, "-m", "guard.launch", "2", *map(str, words)]
    return start(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MARK": mark},
        **(options or {"capture_output": True, "check": False}),
        text=True,
    )


def both(tmp_path, *words, processes=2, before=None):
    """A stage in a group of processes that take no time to start, each of which has to succeed."""
    errors = tmp_path.parent / f"{tmp_path.name}.err"
    assert forked.group(words, errors, processes, before) == [0] * processes, errors.read_text()


@WITHOUT_A_GPU
def test_two_processes_make_what_one_makes(toy, tmp_path):
    teacher = ["--teacher", toy / "teacher/checkpoint.pt"]
    start = ["--start", "noise"]  # a flag that torchrun would take for short forms of its own
    done = two("recover", *teacher, "--output", tmp_path / "images", *TOY["recover"], *start)
    assert done.returncode == 0, done.stderr
    told = re.search(r"(\d+) of (\d+) parts to make", done.stdout)
    assert told[1] == told[2]  # of both processes
    for path in (toy / "images").glob("*/*.png"):
        assert (tmp_path / "images" / path.relative_to(toy / "images")).read_bytes() == path.read_bytes()
    relabel = [
        "relabel",
        *teacher,
        "--distilled",
        toy / "images",
        "--output",
        tmp_path / "labels",
        *TOY["relabel"],
    ]
    both(tmp_path, *relabel)
    for path in (toy / "labels").glob("*.npy"):
        assert (tmp_path / "labels" / path.name).read_bytes() == path.read_bytes()
    (tmp_path / "labels" / "epoch_0001.npy").unlink()
    both(tmp_path, *relabel)
    assert (tmp_path / "labels" / "epoch_0001.npy").read_bytes() == (
        toy / "labels" / "epoch_0001.npy"
    ).read_bytes()


@WITHOUT_A_GPU
def test_two_processes_train_one_teacher_and_evaluate_it(toy, tmp_path):
    both(
        tmp_path,
        "pretrain",
        "--dataset",
        "toy",
        "--root",
        toy,
        "--output",
        tmp_path,
        *TOY["pretrain"],
        "--curvature",
        "--batch-size",
        12,
        "--augmentation",
        "none",
    )
    assert records.read(tmp_path / "log.json")["pretrain"]["environment"]["processes"] == 2
    assert all(
        tensor.isfinite().all() for tensor in checkpoint.load(tmp_path / "checkpoint.pt").state.values()
    )
    shared = [
        "--dataset",
        "toy",
        "--root",
        toy,
        "--checkpoint",
        toy / "teacher/checkpoint.pt",
        "--workers",
        0,
        "--protocol",
        "quick",
        "--epsilon",
        "8/255",
        "--attack-batch",
        1,
    ]
    both(tmp_path, "train.evaluate", *shared, "--record", tmp_path / "two.json")
    assert command("train.evaluate", *shared, "--record", tmp_path / "one.json") == 0
    one, two_made = (
        records.read(tmp_path / name)["evaluate teacher"]["attacks"] for name in ("one.json", "two.json")
    )
    assert {name: result["broken"] for name, result in one.items()} == {
        name: result["broken"] for name, result in two_made.items()
    }


def the_second_has_less_memory():
    memory.CPU_BATCH = 1 if processes.rank() else 100


@WITHOUT_A_GPU
def test_processes_with_unlike_memory_divide_the_work_in_one_way(toy, tmp_path):
    """How many images fit decides where packs and chunks begin, so all must go by the smallest."""
    teacher = ["--teacher", toy / "teacher/checkpoint.pt"]
    few = [*TOY["recover"], "--pack-images", 0]
    both(tmp_path, "recover", *teacher, "--output", tmp_path, *few, before=the_second_has_less_memory)
    assert records.read(tmp_path / "log.json")["recover"]["settings"]["pack_images"] == 1
    for path in (toy / "images").glob("*/*.png"):
        assert (tmp_path / path.relative_to(toy / "images")).read_bytes() == path.read_bytes()
    words = ["--dataset", "toy", "--root", toy, "--checkpoint", toy / "teacher/checkpoint.pt", "--workers", 0]
    words += ["--protocol", "quick", "--epsilon", "8/255"]
    log = ["--record", tmp_path / "two.json"]
    both(tmp_path, "train.evaluate", *words, *log, before=the_second_has_less_memory)
    assert command("train.evaluate", *words, "--record", tmp_path / "one.json") == 0
    one, two_made = (
        records.read(tmp_path / name)["evaluate teacher"]["attacks"]["pgd20"]["broken"]
        for name in ("one.json", "two.json")
    )
    assert one == two_made


def without_a_teacher(toy, tmp_path):
    """A stage of two processes that both find their mistake at once; and the line that says it."""
    teacher = tmp_path / "none.pt"
    words = ["--teacher", teacher, "--distilled", toy / "images", "--output", tmp_path / "labels"]
    done = two("relabel", *words, *TOY["relabel"])
    return done, f"error: no checkpoint at {teacher}; train one first, or name another file"


def test_an_error_of_several_processes_is_one_line_and_leaves_nothing(toy, tmp_path, monkeypatch):
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    done, line = without_a_teacher(toy, tmp_path)
    assert done.stderr.strip().splitlines() == [line]
    assert done.returncode == 2
    assert list(temporary.iterdir()) == []


SLOW_TO_END = """
import atexit, os, pathlib, time
ends = pathlib.Path(__file__).with_name("ends")
if os.environ.get("RANK") == "0":
    atexit.register(time.sleep, 60)
    atexit.register(ends.touch)
elif "RANK" in os.environ:
    while not ends.exists():
        time.sleep(0.1)
"""


def test_a_process_stopped_while_it_ends_keeps_its_status(toy, tmp_path, monkeypatch):
    """The second one fails later and is gone sooner, so torchrun stops the first by SIGTERM."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_TO_END)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done, line = without_a_teacher(toy, tmp_path)
    assert (tmp_path / "ends").exists()
    assert done.stderr.strip().splitlines() == [line]
    assert done.returncode == 2


def long_training(toy, tmp_path, before=None):
    """A started training of two processes that would last for minutes, once it is in its first epochs."""
    words = [
        "pretrain",
        "--dataset",
        "toy",
        "--root",
        toy,
        "--output",
        tmp_path,
        *TOY["pretrain"],
        "--epochs",
        100000,
    ]
    started = two(
        *words,
        start=subprocess.Popen,
        mark=str(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=before,
    )
    assert next(line for line in started.stdout if "epoch 1/" in line)
    return started


def processes_of(mark):
    """Process ids of the training processes that were started with this mark, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(
                entry.split("=", 1) for entry in (folder / "environ").read_text().split("\0") if "=" in entry
            )
            if variables.get("MARK") == str(mark) and "RANK" in variables:
                found[int(variables["RANK"])] = int(folder.name)
        except OSError:
            continue
    return found


@WITHOUT_A_GPU
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_process_that_dies_ends_the_others_and_is_named(toy, tmp_path):
    started = long_training(toy, tmp_path)
    os.kill(processes_of(tmp_path)[1], signal.SIGKILL)
    _, printed = started.communicate(timeout=30)
    assert started.returncode == 137
    assert (
        printed.strip()
        == "error: process 1 of 2 ended with signal 9, so the others were stopped; give the same command"
        " again to go on"
    )
    assert not processes_of(tmp_path)


@WITHOUT_A_GPU
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere a process does not learn of its parent's end"
)
def test_when_the_launcher_is_killed_its_processes_end_too(toy, tmp_path):
    """Else they would go on writing where nobody holds the lock any more."""
    started = long_training(toy, tmp_path)
    assert set(processes_of(tmp_path)) == {0, 1}
    started.kill()
    started.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_of(tmp_path)


@WITHOUT_A_GPU
def test_under_nohup_several_processes_outlive_their_terminal(toy, tmp_path):
    started = long_training(toy, tmp_path, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    os.killpg(started.pid, signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        started.wait(3)
    started.terminate()
    _, printed = started.communicate(timeout=30)
    assert started.returncode == 143 and printed.strip() == ending.INTERRUPTED


def test_an_interrupt_before_the_processes_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(launch, "launch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as end:
        launch.main(["2", "pretrain"])
    assert end.value.code == 130 and capsys.readouterr().err.strip() == ending.INTERRUPTED


@WITHOUT_A_GPU
def test_a_wrong_flag_in_several_processes_is_one_line():
    done = two("pretrain", "-d", "digits", "--output", "out", "--lamda", "3")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: unrecognized arguments: --lamda 3;")


def test_the_help_of_a_stage_is_the_stages(monkeypatch):
    given = []
    monkeypatch.setattr(launch, "launch", lambda *words: given.extend(words))
    with pytest.raises(SystemExit):
        launch.main(["2", "pretrain", "--help", "-d", "digits"])
    assert given == [2, "pretrain", "--help", "-d", "digits"]


def test_odd_numbers_in_the_environment_are_named(monkeypatch):
    """Machines of a cluster may have set them for themselves."""
    monkeypatch.setenv("WORLD_SIZE", "")
    monkeypatch.setenv("RANK", "")
    assert processes.world_size() == 1 and processes.rank() == 0 and torchrun.is_first()
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE is 2 in the environment, without RANK; unset it"):
        devices.joined("cpu").__enter__()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="RANK is 1 in the environment, without WORLD_SIZE; unset it"):
        devices.joined("cpu").__enter__()
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(UserError, match="RANK='x', which is no number"):
        processes.rank()


@WITHOUT_A_GPU
def test_an_interrupt_of_several_processes_is_one_line(toy, tmp_path):
    started = long_training(toy, tmp_path)
    os.killpg(started.pid, signal.SIGINT)
    _, printed = started.communicate(timeout=30)
    assert started.returncode == 130
    assert printed.strip() == ending.INTERRUPTED


BUSY = """
import os, threading
if "RANK" in os.environ:
    import torch
    def work():
        while True:
            torch.rand(64, 64) @ torch.rand(64, 64)
    threading.Thread(target=work, daemon=True).start()
"""


@WITHOUT_A_GPU
def test_threads_of_a_group_do_not_disturb_its_end(toy, tmp_path, monkeypatch):
    """gloo's may still be at work, and C++ ends a process whose thread asks for a Python that is gone: with
    a line of its own, "terminate called without an active exception".
    """
    (tmp_path / "sitecustomize.py").write_text(BUSY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = long_training(toy, tmp_path)
    os.killpg(started.pid, signal.SIGINT)
    _, printed = started.communicate(timeout=30)
    assert started.returncode == 130
    assert printed.strip() == ending.INTERRUPTED


# ---- processes that are not equally fast ---------------------------------------------------------


def looks_late():
    if os.environ["RANK"] == "1":
        found = Manifest._has

        def late(self, *given):
            (self.path.parents[1] / "looked late").touch()
            time.sleep(2)
            return found(self, *given)

        Manifest._has = late


def sees_an_empty_record():
    if os.environ["RANK"] == "1":
        records.read = lambda log: {}


@WITHOUT_A_GPU
def test_a_process_that_looks_late_for_what_is_missing_does_its_share(toy, tmp_path):
    """Images of both packs are lost; the first has written its own by the time at which the second looks."""
    shutil.copytree(toy / "images", tmp_path / "images")
    for name in ("cat/cat_0.png", "cat/cat_1.png"):
        (tmp_path / "images" / name).unlink()
    both(
        tmp_path,
        "recover",
        "--teacher",
        toy / "teacher/checkpoint.pt",
        "--output",
        tmp_path / "images",
        *TOY["recover"],
        before=looks_late,
    )
    assert (tmp_path / "looked late").exists()
    for path in (toy / "images").glob("*/*.png"):
        assert (tmp_path / "images" / path.relative_to(toy / "images")).read_bytes() == path.read_bytes()


@WITHOUT_A_GPU
def test_the_first_process_decides_what_is_left_of_an_evaluation(toy, tmp_path):
    """The second sees the record as it was before the evaluation was finished."""
    words = [
        "--dataset",
        "toy",
        "--root",
        toy,
        "--checkpoint",
        toy / "teacher/checkpoint.pt",
        "--record",
        tmp_path / "log.json",
        "--workers",
        0,
        "--protocol",
        "quick",
    ]
    assert command("train.evaluate", *words) == 0
    finished = (tmp_path / "log.json").read_bytes()
    both(tmp_path, "train.evaluate", *words, before=sees_an_empty_record)
    assert (tmp_path / "log.json").read_bytes() == finished
    both(tmp_path, "train.evaluate", *words, "--force", before=sees_an_empty_record)


# ---- training in two processes is training in one ------------------------------------------------


def assert_close(one, other, tolerance):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(
            tensor,
            other[name],
            rtol=0,
            atol=tolerance * max(1, tensor.abs().max().item()),
            msg=lambda text, name=name: f"{name}: {text}",
        )


SHORT = [
    "--epochs",
    2,
    "--batch-size",
    5,
    "--augmentation",
    "none",
    "--curvature",
    "--lambda",
    1,
]  # batches of 5, 5 and 2 images, in shares of 3 and 2, 1 and 1


@WITHOUT_A_GPU
@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_with_synchronized_batch_norm_two_processes_train_the_teacher_of_one(statistics, toy, tmp_path):
    """By statistics of the mini-batch the regularizer differentiates their sums over processes twice."""
    words = ["pretrain", "--dataset", "toy", "--root", toy, *TOY["pretrain"], *SHORT]
    words += ["--curvature-statistics", statistics]
    both(tmp_path, *words, "--output", tmp_path / "two", "--sync-batch-norm")
    assert command(*words, "--output", tmp_path / "one") == 0
    states = [checkpoint.load(tmp_path / name / "checkpoint.pt").state for name in ("one", "two")]
    assert_close(*states, 1e-4)
    histories = [records.read(tmp_path / name / "log.json")["pretrain"]["history"] for name in ("one", "two")]
    for one, other in zip(*histories, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@WITHOUT_A_GPU
def test_without_it_two_processes_train_as_two_halves_of_each_batch_would(toy, tmp_path):
    """Against both shares worked out here, one after the other: gradients weighted by their images,
    statistics averaged at the end of an epoch.
    """
    words = ["pretrain", "--dataset", "toy", "--root", toy, *TOY["pretrain"], *SHORT]
    both(tmp_path, *words, "--output", tmp_path / "two")

    options = cli.stage_parser("pretrain", "", "pretrain", argv=[])
    cli.add_data(options)
    cli.add_workers(options)
    settings = cli.resolve(options.parse_known_args([str(word) for word in words[1:]])[0], "toy", "pretrain")
    held = images.load(find.find("toy", toy, "train"), settings.image_size)
    seeds.seed_everything(0, "teacher", "weights")
    model = teacher.build(settings, "toy", held.classes).train()
    statistics = [{name: buffer.clone() for name, buffer in model.named_buffers()} for _ in range(2)]
    optimizer = torch.optim.SGD(
        model.parameters(),
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * schedules.cosine(epoch, 2)
        whole = loading.TrainingEpoch(held, augmentation="none", batch_size=5, size=16, seed=0, epoch=epoch)
        for number in range(len(whole)):
            pixels, labels = whole[number]
            gradients = [torch.zeros_like(parameter) for parameter in model.parameters()]
            for mine, part, its_labels in zip(statistics, pixels.tensor_split(2), labels.tensor_split(2)):
                load_buffers(model, mine)
                optimizer.zero_grad()
                loss, _ = teacher.teacher_loss(
                    settings,
                    model,
                    augment.as_float(part),
                    its_labels,
                    batch_size=len(labels),
                    step=0,
                    draws=None,
                )
                loss.backward()
                for gradient, parameter in zip(gradients, model.parameters()):
                    gradient += parameter.grad * len(part) / len(labels)
                mine.update({name: buffer.clone() for name, buffer in model.named_buffers()})
            for gradient, parameter in zip(gradients, model.parameters()):
                parameter.grad = gradient
            optimizer.step()
        mean = {
            name: (one + statistics[1][name]) / 2 if one.is_floating_point() else one
            for name, one in statistics[0].items()
        }
        statistics = [dict(mean), dict(mean)]
        load_buffers(model, mean)
    assert_close(model.network.state_dict(), checkpoint.load(tmp_path / "two/checkpoint.pt").state, 1e-4)


def load_buffers(model, values):
    for name, buffer in model.named_buffers():
        buffer.copy_(values[name])


@WITHOUT_A_GPU
def test_with_synchronized_batch_norm_two_processes_train_the_student_of_one(toy, tmp_path):
    words = toy_student(toy, "--images", 1)
    both(tmp_path, *words, "--output", tmp_path / "two", "--sync-batch-norm")
    assert command(*words, "--output", tmp_path / "one") == 0
    assert_close(*(checkpoint.load(tmp_path / name / "checkpoint.pt").state for name in ("one", "two")), 1e-3)
    both(tmp_path, *words, "--output", tmp_path / "off")
    states = [checkpoint.load(tmp_path / name / "checkpoint.pt").state for name in ("one", "off")]
    assert any(
        (states[0][name] - states[1][name]).abs().max() > 1e-3 for name in states[0]
    )  # each half has statistics of its own


@WITHOUT_A_GPU
def test_two_processes_see_their_shares_through_one_siamese_augmentation(toy, tmp_path):
    sgd = ["--optimizer", "sgd", "--learning-rate", 0.01]  # AdamW would make much of rounding
    words = toy_student(toy, "--images", 1, "--dsa", "--loss", "cross-entropy", *sgd)
    both(tmp_path, *words, "--output", tmp_path / "two", "--sync-batch-norm")
    assert command(*words, "--output", tmp_path / "one") == 0
    assert_close(*(checkpoint.load(tmp_path / name / "checkpoint.pt").state for name in ("one", "two")), 1e-3)


@WITHOUT_A_GPU
@pytest.mark.parametrize("count", [2, 3])
def test_the_distance_of_input_gradients_is_that_of_the_whole_mini_batch(count, toy, tmp_path):
    """Of three processes one has no image of a last mini-batch of two."""
    recipe = [*TOY["relabel"], "--input-gradients", "values", "--batch-size", 3 if count == 2 else 2]
    made_from = ["--teacher", toy / "teacher/checkpoint.pt", "--distilled", toy / "images"]
    assert command("relabel", *made_from, *recipe, "--output", tmp_path / "labels") == 0
    plain = ["--optimizer", "sgd", "--learning-rate", 0.01]  # AdamW would make much of rounding
    words = toy_student(toy, "--labels", tmp_path / "labels", "--gradient-weight", 10, "--images", 1, *plain)
    both(tmp_path, *words, "--output", tmp_path / "several", "--sync-batch-norm", processes=count)
    assert command(*words, "--output", tmp_path / "one") == 0
    states = [checkpoint.load(tmp_path / name / "checkpoint.pt").state for name in ("one", "several")]
    assert_close(*states, 1e-3)
    both(tmp_path, *words, "--output", tmp_path / "off", processes=count)  # ends, too


@WITHOUT_A_GPU
@pytest.mark.parametrize("more", [[], ["--sync-batch-norm"]])
def test_a_process_without_images_in_the_last_batch_takes_part(more, toy, tmp_path):
    """Three processes and a last batch of two images, with the regularizer whose sign is that of the
    whole batch.
    """
    words = [
        "pretrain",
        "--dataset",
        "toy",
        "--root",
        toy,
        *TOY["pretrain"],
        *SHORT,
        "--regularizer",
        "loss",
        "--loss-beta",
        1,
    ]
    both(tmp_path, *words, "--output", tmp_path / "three", *more, processes=3)
    made, own = checkpoint.load(tmp_path / "three/checkpoint.pt"), recipes.recipe("toy")
    normalization = torch.tensor([own.mean, own.std]).tolist()
    assert [list(made.mean), list(made.std)] == normalization, "a mean over processes rounds"
    if more:
        assert command(*words, "--output", tmp_path / "one") == 0
        assert_close(
            *(checkpoint.load(tmp_path / name / "checkpoint.pt").state for name in ("one", "three")), 1e-4
        )

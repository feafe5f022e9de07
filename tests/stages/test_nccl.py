"""What several processes do with GPUs, without any: fake functions of torch.cuda and torch.distributed that
refuse what NCCL would refuse, and tensors of tests/instrument.py.
"""

import functools
import os
import time
from pathlib import Path

import forked
import pytest
import torch
import torchvision
from conftest import TOY
from torchvision.models import resnet18

from guard import ending
from guard.errors import UserError
from guard.networks import synced_norm
from guard.run import devices, processes
from tests import device_steps
from tests.instrument import GPU, Instrument, OnDevice, on_device

# ---- joining -------------------------------------------------------------------------------------


@pytest.fixture
def second_of_two(monkeypatch):
    """This process as the second of two on a machine with two GPUs; a list of what it asks for, in order."""
    asked = []
    where = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    for name, value in {**where, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(devices, "make_deterministic", lambda: asked.append("deterministic"))
    monkeypatch.setattr(devices, "_attend_plainly", lambda: None)
    monkeypatch.setattr(ending, "end_with_parent", lambda sent: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: asked.append(("set_device", number)))
    group = torch.distributed

    def begin(backend, *, timeout, device_id):
        asked.append((backend, device_id))

    monkeypatch.setattr(group, "init_process_group", begin)
    monkeypatch.setattr(group, "destroy_process_group", lambda: asked.append("destroyed"))
    monkeypatch.setattr(group, "barrier", lambda: asked.append("barrier"))
    return asked


@pytest.mark.parametrize("name", ["auto", "0,1"])
def test_a_process_takes_its_gpu_before_it_joins(name, second_of_two):
    with devices.joined(name) as device:
        processes.barrier()
    own = torch.device("cuda", 1)
    assert device == own
    assert second_of_two == ["deterministic", ("set_device", 1), ("nccl", own), "barrier", "destroyed"]


def test_after_an_error_a_process_does_not_wait_for_the_others(second_of_two, monkeypatch):
    ended = torch.distributed.distributed_c10d
    monkeypatch.setattr(ended, "_abort_process_group", lambda: second_of_two.append("aborted"))
    with pytest.raises(UserError, match="an image"), devices.joined("auto"):
        raise UserError("an image is damaged")
    assert second_of_two[-1] == "aborted" and "destroyed" not in second_of_two


@pytest.mark.parametrize("name", ["0", "1,1"])
def test_two_processes_on_one_gpu_are_refused(name, second_of_two):
    """NCCL would end both with a trace."""
    with pytest.raises(UserError, match="2 processes"), devices.joined(name):
        pass
    assert second_of_two == ["deterministic"]


def test_on_cpus_the_group_is_of_gloo(second_of_two):
    with devices.joined("cpu"):
        pass
    assert second_of_two == ["deterministic", ("gloo", None), "destroyed"]


# ---- tensors -------------------------------------------------------------------------------------


@pytest.fixture
def nccl(monkeypatch):
    """A group of two, of which this is the first, that adds zeros; a list of what was given to it."""
    given = []

    def all_reduce(tensor, operation=None):
        if not isinstance(tensor, OnDevice):
            raise TypeError(f"No backend type associated with device type {tensor.device}")
        if not tensor.is_contiguous():
            raise RuntimeError("Tensors must be contiguous")
        given.append(tuple(tensor.shape))

    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    return given


def test_the_fake_group_refuses_what_nccl_refuses(nccl):
    with Instrument():
        with pytest.raises(TypeError, match="No backend"):
            processes.sum_over_processes(torch.zeros(2))
        with pytest.raises(RuntimeError, match="contiguous"):
            processes.sum_over_processes(on_device(torch.zeros(2, 3)).T)
        processes.sum_over_processes(on_device(torch.zeros(2)))
    assert nccl == [(2,)]


def teachers_with_synced_norm(model, device):
    synced_norm.synchronize(model.network)
    device_steps.train_teacher(model, device, steps=1, sync_batch_norm=True, curvature=True)


WORK = {
    **{
        kind: lambda model, device, changes=changes: device_steps.train_teacher(
            model, device, steps=1, **changes
        )
        for kind, changes in device_steps.TEACHERS.items()
    },
    "teacher, synchronized": teachers_with_synced_norm,
    "student": lambda model, device: device_steps.train_student(model, device, steps=1),
    "student, averaged": lambda model, device: device_steps.train_student(
        model, device, steps=1, weight_average=0.9
    ),
    "evaluation": lambda model, device: device_steps.evaluate_model(
        model, device, names=["clean", "fgsm"], epsilon=0.02
    ),
    "memory": lambda model, device: processes.least_of(3, device),
}


@pytest.mark.parametrize("kind", WORK)
def test_what_processes_add_up_is_on_the_gpu(kind, nccl):
    with Instrument():
        WORK[kind](device_steps.make_model().to(GPU), GPU)
    assert nccl


def test_a_process_without_images_adds_up_on_the_gpu(nccl, monkeypatch):
    """The second of two with a mini-batch of a single image, and the regularizer that sums by itself."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(device_steps, "BATCH", 1)
    # The fake group adds nothing, so at the end no process has seen an image.
    with Instrument(), pytest.raises(ZeroDivisionError):
        changes = {"curvature": True, "regularizer": "loss"}
        device_steps.train_teacher(device_steps.make_model().to(GPU), GPU, steps=1, **changes)
    assert () in nccl


# ---- processes of the stages ---------------------------------------------------------------------


def notes_its_switches():
    """Has select write down the switches that it finds, and end the process."""
    if os.environ["NOTES"].endswith("own"):
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"

    def select(name):
        tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        begun = torch.cuda.is_initialized()
        found = f"{os.environ.get('CUBLAS_WORKSPACE_CONFIG')} {tf32} {torch.backends.cudnn.benchmark} {begun}"
        Path(f"{os.environ['NOTES']}.{os.environ.get('RANK', 'alone')}").write_text(found)
        os._exit(0)

    devices.select = select


def stage_words(name, toy):
    """The words of a stage on the toy's files."""
    data, teacher = ["--dataset", "toy", "--root", toy], ["--teacher", toy / "teacher/checkpoint.pt"]
    images, labels = ["--distilled", toy / "images"], ["--labels", toy / "labels"]
    return {
        "pretrain": [*data, "--output", toy / "teacher", *TOY["pretrain"]],
        "recover": [*teacher, "--output", toy / "images", *TOY["recover"]],
        "relabel": [*teacher, *images, "--output", toy / "labels", *TOY["relabel"]],
        "train": [*data, *teacher, *images, *labels, "--output", toy / "student", *TOY["train"]],
        "train.evaluate": [*data, "--checkpoint", toy / "teacher/checkpoint.pt", "--workers", 0],
    }[name]


@pytest.mark.parametrize("name", ["pretrain", "recover", "relabel", "train", "train.evaluate"])
def test_each_stage_sets_the_switches_in_each_process(name, toy, tmp_path):
    words = [name, *stage_words(name, toy)]
    for notes, expected in (("none", ":4096:8"), ("own", ":16:8")):
        alone = forked.start(words, tmp_path / "errors", {"NOTES": str(tmp_path / notes)}, notes_its_switches)
        alone.join(60)
        second = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
        second |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "NOTES": str(tmp_path / notes)}
        group = forked.start(words, tmp_path / "errors", second, notes_its_switches)
        group.join(60)
        for rank in ("alone", "1"):
            assert (tmp_path / f"{notes}.{rank}").read_text() == f"{expected} False False False"


# ---- one process makes what others wait for ------------------------------------------------------


def downloads_into_a_file(place):
    """Has torchvision's weights be downloaded for a second by whoever finds no file, and note who it is."""

    class Entry:
        @staticmethod
        def get_state_dict(progress):
            del progress
            if not place.exists():
                with open(f"{place}.log", "a") as log:
                    log.write(f"{os.environ['RANK']} ")
                time.sleep(1)
                place.touch()
            return resnet18(num_classes=2).state_dict()

    torchvision.models.get_model_weights = lambda name: {"MADE_UP": Entry}


@pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would need two GPUs")
def test_one_process_downloads_and_the_other_waits(toy, tmp_path):
    words = ["pretrain", "--dataset", "toy", "--root", toy, "--weights", "MADE_UP", "--model", "resnet18"]
    words += ["--image-size", 16, "--stem", "standard", "--output", tmp_path / "teacher", "--workers", 0]
    errors = tmp_path / "errors"
    assert forked.group(words, errors, 2, functools.partial(downloads_into_a_file, tmp_path / "weights")) == [
        0,
        0,
    ], errors.read_text()
    assert (tmp_path / "weights.log").read_text() == "0 "

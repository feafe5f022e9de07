"""Batches that the memory holds, and what happens where it does not."""

import ctypes
import dataclasses
import functools
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, pixel_model, write_folder
from torch import nn

import guard
from guard import attacks
from guard.attacks import robustness
from guard.data import find, images
from guard.networks import memory
from guard.recipes import recipe
from recover import recovery, sre2l

CPU = torch.device("cpu")


def test_what_a_backward_keeps_is_counted():
    """A convolution keeps its input, a ReLU its output, which the linear layer keeps as well; weights
    are not an image's.
    """
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 2))
    image, activation = 3 * 64 * 4, 4 * 64 * 4
    assert memory.kept_per_image(model, 8) in (activation + image, activation + 2 * image)
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and model.training
    wide = nn.Sequential(nn.Conv2d(3, 400, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(400 * 64, 2))
    assert memory.kept_per_image(wide, 8) - memory.kept_per_image(model, 8) == (400 - 4) * 64 * 4


class OfBuffers(nn.Module):
    """A network whose weights are fixed numbers, or that has none at all."""

    def __init__(self, *weights):
        super().__init__()
        for weight in weights:
            self.register_buffer("weight", weight)

    def forward(self, x):
        return x.flatten(1) @ self.weight if hasattr(self, "weight") else x.mean((2, 3))


@pytest.mark.parametrize("weights", [[], [torch.randn(192, 3, dtype=torch.float64)]])
def test_a_network_without_parameters_can_be_attacked(weights):
    model = OfBuffers(*weights).eval()
    pixels = torch.rand(4, 3, 8, 8, dtype=weights[0].dtype if weights else torch.float32)
    labels = model(pixels).argmax(1)
    found = guard.evaluate(model, pixels, labels, attacks="pgd20", epsilon=8 / 255)
    assert found["clean"] == 100 and 0 <= found["pgd20"] <= 100


def test_the_batch_is_what_the_memory_holds(network, monkeypatch):
    kept = memory.kept_per_image(network, 8)
    for available, expected in (
        (10**12, memory.CPU_BATCH),
        (7.5 * kept * memory.OVERHEAD / memory.USABLE, 7),
        (1, 1),
    ):
        monkeypatch.setattr(memory, "of_device", lambda device, available=available: available)
        assert memory.images_that_fit(network, 8, CPU, most=500) == expected
    monkeypatch.undo()
    assert memory.of_device(CPU) > 2**28


def full_above(limit, function):
    """`function`, which here finds no memory for more than `limit` images or problems; counts its calls."""
    counts = []

    def limited(*arguments, **named):
        count = named.get("batch_size") or len(arguments[2])
        counts.append(count)
        if count > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return function(*arguments, **named)

    limited.counts = counts
    return limited


def test_recovery_without_memory_goes_on_with_half_of_the_problems(network, monkeypatch, capsys):
    settings = dataclasses.replace(recipe("imagenette").recover, iterations=4, roll=2)
    model, pack = pixel_model(network), sre2l.problems_of(3, 5, 100)
    whole = sre2l.recover_pack(settings, model, pack, 7, CPU)
    limited = full_above(2, sre2l.recover_pack)
    monkeypatch.setattr(sre2l, "recover_pack", limited)
    request = recovery.Request(settings, model, ["a", "b", "c"], 7, CPU)
    fitting = {}
    made = sre2l._make(request, pack, None, fitting, None)
    found = made.pixels.unflatten(0, (5, 3)), torch.tensor(made.losses, dtype=torch.float64)
    assert (
        limited.counts == [5, 2, 2, 1]
        and capsys.readouterr().err == "warning: no memory for 5 problems at once; going on with 2\n"
    )
    for one, other in zip(found, whole):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    sre2l._make(request, pack, None, fitting, None)  # the pack after it knows, and tries no more than that
    assert limited.counts == [5, 2, 2, 1, 2, 2, 1] and not capsys.readouterr().err


def test_an_attack_without_memory_goes_on_with_half_of_the_images(network, tmp_path, monkeypatch, capsys):
    write_folder(tmp_path, classes=("a", "b", "c"), size=8)
    held, model = images.load(find.find("toy", tmp_path, "val"), 8), pixel_model(network.float())
    settings = {"size": 8, "names": ["pgd20"], "epsilon": 8 / 255, "seed": 0, "workers": 0, "device": CPU}
    whole = robustness.evaluate(model, held, attack_batch=0, **settings)["attacks"]["pgd20"]
    assert not capsys.readouterr().err
    limited = full_above(6, attacks.run)
    monkeypatch.setattr(attacks, "run", limited)
    found = robustness.evaluate(model, held, attack_batch=10, **settings)["attacks"]["pgd20"]
    assert (
        limited.counts == [10, 5]
        and "no memory for 10 images at once; going on with 5" in capsys.readouterr().err
    )
    assert found["broken"] == whole["broken"]


def test_what_is_no_lack_of_memory_or_stays_one_is_raised():
    tried = []

    def fail(problem, count):
        tried.append(count)
        raise problem

    for problem, counts in (
        (torch.OutOfMemoryError("CUDA out of memory"), [4, 2]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), [4, 2]),
        (RuntimeError("shapes"), [4]),
    ):
        tried.clear()
        with pytest.raises(RuntimeError, match=str(problem)):
            memory.halved_when_full(functools.partial(fail, problem), 4, "images")
        assert tried == counts


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs the GNU C library")
def test_freed_memory_is_kept_for_what_comes_next():
    """Large tensors that come and go touch new pages at first and then no more; with the library's own
    settings each touches thousands.
    """
    code = """
import resource, sys, torch
from guard.run.devices import keep_freed_memory
if sys.argv[1] == "kept": keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): torch.ones(10_000_000)
before = faults()
for _ in range(20): torch.ones(10_000_000)
print(faults() - before)
"""
    # Of large pages fewer are touched; a stage that ran in this process has asked for them.
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    kept, given_back = (
        int(
            subprocess.run(
                [sys.executable, "-c", code, word],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for word in ("kept", "given back")
    )
    assert kept < 1000 and given_back > 20000

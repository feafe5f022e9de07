"""Over a thousand iterations of any stage memory does not grow, and the record is valid JSON at every
instant.
"""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT, TOY, command

PIECES = """
import dataclasses, functools, gc, resource, sys
sys.path.insert(0, "tests")
import torch
from guard import attacks
from guard.bench import units
from guard.run.devices import keep_freed_memory, make_deterministic
from guard.recipes import recipe

make_deterministic()
keep_freed_memory()
torch.set_num_threads(1)
where, chosen = torch.device("cpu"), recipe("cifar10")
network = units.network("cifar10", "convnet-32", 8, "cifar", 2, where).eval()
held = units.random_images(4, 2, 8, where)
relabel = dataclasses.replace(chosen.relabel, batch_size=4)
train = dataclasses.replace(chosen.train, model="convnet-32")
small = {"model": "convnet-32", "image_size": 8, "batch_size": 4}
pretrain = dataclasses.replace(chosen.pretrain, **small, curvature=True)
recover = dataclasses.replace(chosen.recover, iterations=10, images_per_class=1, pack_images=2)
model, pixels, labels = network, held.pixels.float() / 255, held.labels

def recovering():
    return units.recover_iterations(recover, network, 2, where)

def evaluating():
    given = {"epsilon": 8 / 255, "seed": 0, "indices": torch.arange(4), "batch_size": 4}
    return functools.partial(attacks.run, "pgd100", network, pixels, labels, **given)

pieces = {
    "pretrain": (units.teacher_steps(pretrain, "cifar10", 2, where), 1),
    "recover": (recovering(), 10),
    "relabel": (units.label_epoch(relabel, network, held), 1),
    "train": (units.student_epoch(train, relabel, network, "cifar", "cifar10", held, where), 1),
    # the network is prepared for each call, of which torch.fx keeps a few entries
    "evaluate": (evaluating(), 100),
}

def measured():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize(), len(gc.get_objects())

for name, (piece, times) in pieces.items():
    for _ in range(200 // times):
        piece()
    memory, objects = measured()
    for _ in range(1000 // times):
        piece()
    now, objects_now = measured()
    print(name, now - memory, objects_now - objects)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_does_not_grow_over_a_thousand_iterations_of_any_stage():
    done = subprocess.run(
        [sys.executable, "-c", PIECES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = {
        name: (int(grown), int(objects)) for name, grown, objects in map(str.split, done.stdout.splitlines())
    }
    assert set(found) == {"pretrain", "recover", "relabel", "train", "evaluate"}
    assert all(grown < 4_000_000 and objects < 100 for grown, objects in found.values()), (
        found
    )  # a kept step would be 100 kB and hundreds of objects


def test_the_record_is_valid_at_every_instant(toy, tmp_path):
    """Read all the time while an evaluation writes to it after each attack."""
    log, read, broken, stop = tmp_path / "log.json", [], [], threading.Event()

    def watch():
        while not stop.is_set():
            if log.exists():
                contents = log.read_text()
                try:
                    read.append(json.loads(contents))
                except ValueError:
                    broken.append(contents)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for epsilon in range(1, 6):
            arguments = [
                "--checkpoint",
                toy / "teacher/checkpoint.pt",
                "--dataset",
                "toy",
                "--root",
                toy,
                "--record",
                log,
                "--workers",
                0,
                "--protocol",
                "quick",
            ]
            assert command("train.evaluate", *arguments, "--epsilon", f"{epsilon}/255") == 0
    finally:
        stop.set()
        watcher.join()
    assert not broken
    assert len({json.dumps(each) for each in read}) > 5 and all("evaluate teacher" in each for each in read)


def test_lines_say_how_much_time_is_left(toy, tmp_path, capsys):
    assert (
        command("pretrain", "--dataset", "toy", "--root", toy, "--output", tmp_path / "t", *TOY["pretrain"])
        == 0
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "val accuracy" in line]
    assert lines[0].endswith("00:00 left") and "left" not in lines[-1]

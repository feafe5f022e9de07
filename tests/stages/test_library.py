"""`import guard`: what it offers, and that docs/notebook.md runs as it stands."""

import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TOY, command
from torch import nn

import guard
from guard import command as console
from guard import library
from guard.errors import UserError

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_notebook_page_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """With a teacher of the digits of one epoch in the place of a whole experiment."""
    monkeypatch.chdir(tmp_path)
    teacher, run = "runs/teacher/checkpoint.pt", "runs/24"
    short = ["--epochs", 1, "--images", 5, "--curvature-images", 0]
    assert command("pretrain", "--dataset", "digits", "--output", "runs/teacher", *short) == 0
    recover = ["--images-per-class", 2, "--iterations", 2]
    assert command("recover", "--teacher", teacher, "--output", f"{run}/images", *recover) == 0
    made = ["--teacher", teacher, "--distilled", f"{run}/images"]
    assert command("relabel", *made, "--output", f"{run}/labels", "--epochs", 1) == 0
    (tmp_path / run / "student").mkdir()
    shutil.copy(teacher, f"{run}/student/checkpoint.pt")
    names = {}
    for block in CODE.findall((ROOT / "docs/notebook.md").read_text()):
        exec(block, names)  # noqa: S102 - this is the test
    assert set(names["accuracies"]) == {"clean", "pgd20"}
    assert len(names["distilled"]) == 20 and names["adversarial"].shape == (50, 3, 16, 16)
    assert names["teacher_logits"].shape[1] == 10 and names["views"].shape[1:] == (3, 16, 16)
    assert "normalization belongs into the model" in capsys.readouterr().out


def test_evaluate_agrees_with_the_stage(toy, tmp_path):
    from guard.run import records

    path = toy / "teacher/checkpoint.pt"
    words = ["--checkpoint", path, "--dataset", "toy", "--root", toy, "--record", tmp_path / "log.json"]
    assert (
        command("train.evaluate", *words, "--workers", 0, "--attacks", "fgsm,mim", "--epsilon", "8/255") == 0
    )
    found = records.read(tmp_path / "log.json")["evaluate teacher"]
    assert list(found["attacks"]) == ["clean", "fgsm", "mim"] and found["protocols"] == ["custom"]
    pixels, labels = guard.load_images("toy", toy, size=16)
    network = guard.load_network(path)
    ours = guard.evaluate(network, pixels, labels, attacks=["fgsm", "mim"], epsilon=8 / 255)
    assert ours == {name: result["accuracy"] for name, result in found["attacks"].items()}


def linear():
    """A network of images of 16 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).eval()


REFUSED = {
    "fewer labels": ({"labels": torch.zeros(2, dtype=torch.int64)}, "expected"),
    "labels of another type": ({"labels": torch.zeros(3, dtype=torch.int32)}, "int64"),
    "labels in a list": ({"labels": [0, 1, 0]}, "int64"),
    "one-hot labels": ({"labels": torch.eye(3).long()}, "expected"),
    "in float64": ({"pixels": torch.zeros(3, 3, 16, 16, dtype=torch.float64)}, r"images\.float\(\)"),
    "for a network in float64": ({"model": linear().double()}, "give it those that it takes"),
    "of another size": ({"model": linear(), "pixels": torch.zeros(3, 3, 16, 24)}, "does not take images"),
    "bytes": ({"pixels": torch.zeros(3, 3, 16, 16, dtype=torch.uint8)}, "floating-point"),
    "an array": ({"pixels": torch.zeros(3, 3, 16, 16).numpy()}, "floating-point"),
    "one channel": ({"pixels": torch.zeros(3, 1, 16, 16)}, "expected"),
    "epsilon without /255": ({"epsilon": 8}, "perhaps 8/255 is meant"),
    "a function": ({"model": lambda pixels: pixels}, "a function; wrap it"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("call", ["attack", "evaluate"])
def test_what_no_attack_can_work_on_is_one_line(call, case, toy):
    network = guard.load_network(toy / "teacher/checkpoint.pt")
    given = {"model": network, "pixels": torch.zeros(3, 3, 16, 16), "labels": torch.tensor([0, 1, 0])}
    changed, told = REFUSED[case]
    given = given | {"epsilon": 1 / 255} | changed
    inputs = [given.pop(name) for name in ("model", "pixels", "labels")]
    with pytest.raises(UserError, match=told):
        if call == "attack":
            guard.attack("fgsm", *inputs, **given)
        else:
            guard.evaluate(*inputs, **given, attacks="fgsm")


class InAList(nn.Module):
    """A network that keeps another one where torch does not see it."""

    def __init__(self, network):
        super().__init__()
        self.held = [network]

    def forward(self, pixels):
        return self.held[0](pixels)


def test_images_need_not_be_square_nor_networks_traceable():
    torch.manual_seed(0)
    pixels = torch.rand(6, 3, 8, 16)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(84, 3)).eval()
    labels = network(pixels).argmax(1)
    found = {
        name: guard.evaluate(model, pixels, labels, attacks="pgd20", epsilon=16 / 255)
        for name, model in (("itself", network), ("in a list", InAList(network).eval()))
    }
    assert found["itself"] == found["in a list"] and found["itself"]["clean"] == 100
    moved = guard.attack("pgd20", InAList(network).eval(), pixels, labels, epsilon=16 / 255)
    assert moved.shape == pixels.shape and not torch.equal(moved, pixels)


def test_an_epsilon_in_l2_may_be_above_one(toy):
    network = guard.load_network(toy / "teacher/checkpoint.pt")
    pixels, labels = guard.load_images("toy", toy, size=16)
    found = guard.attack("pgd100-l2", network, pixels[:2], labels[:2], epsilon=2.0)
    assert (found - pixels[:2]).flatten(1).norm(dim=1).max() <= 2.0 + 1e-5
    assert guard.evaluate(network, pixels, labels, attacks="pgd100-l2", epsilon=2.0)["clean"] >= 0
    with pytest.raises(UserError, match="perhaps 2/255 is meant"):
        guard.evaluate(network, pixels, labels, attacks=["pgd100-l2", "fgsm"], epsilon=2.0)


def test_no_images_have_no_accuracy(toy):
    network = guard.load_network(toy / "teacher/checkpoint.pt")
    with pytest.raises(UserError, match="no images"):
        guard.evaluate(network, torch.zeros(0, 3, 16, 16), torch.zeros(0).long(), attacks="fgsm")


@pytest.mark.parametrize("dataset", ["digits", "toy"])
@pytest.mark.parametrize("split", ["test", "Val"])
def test_a_split_that_there_is_not_is_refused(dataset, split, toy):
    with pytest.raises(UserError, match=f"no split '{split}'; there are train and val"):
        guard.load_images(dataset, toy, split=split)
    with pytest.raises(UserError, match="per_class is -1"):
        guard.load_images(dataset, toy, per_class=-1)
    with pytest.raises(UserError, match="size is -1"):
        guard.load_images(dataset, toy, size=-1)


@pytest.mark.parametrize(
    ("own", "device", "asked"),
    [
        ("meta", None, "meta"),
        ("meta", "cpu", "cpu"),
        ("", None, "cpu"),  # a model without weights
        ("", "cuda", "0"),
        ("", "cuda:1", "1"),
        ("", torch.device("cuda", 2), "2"),
    ],
)
def test_evaluate_computes_where_the_model_is_or_where_it_is_told(own, device, asked, monkeypatch):
    seen = []

    def note(name):
        seen.append(name)
        raise UserError("seen enough")

    monkeypatch.setattr(guard.library.devices, "ready", note)
    model = (
        nn.Sequential(nn.Flatten(), nn.Linear(192, 1, device=own)) if own else torch.nn.Identity()
    ).eval()
    pixels, labels = torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(UserError, match="seen enough"):
        guard.evaluate(model, pixels, labels, protocol="quick", device=device)
    assert seen == [asked]


def test_items_are_the_images_and_their_labels(toy):
    distilled = guard.load_distilled(toy / "images")
    pixels, label = distilled[3]
    assert (len(distilled), label, distilled.classes) == (4, 1, ("cat", "dog"))
    assert torch.equal(pixels, distilled.packed.pixels[3].float() / 255)
    with pytest.raises(guard.UserError, match="no epoch 7 .* 0 to 1"):
        next(distilled.labelled(toy / "labels", epoch=7))


def test_a_user_error_is_a_value_error():
    assert guard.UserError is UserError and issubclass(UserError, ValueError)
    with pytest.raises(ValueError, match="no attack 'nosuch'"):
        guard.attack("nosuch", None, None, None)
    with pytest.raises(AttributeError, match="nosuch"):
        guard.nosuch  # noqa: B018 - the access is the test


def test_importing_guard_loads_no_torch():
    code = "import sys, guard; assert 'torch' not in sys.modules; guard.attack; assert 'torch' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_console_command_works_where_nothing_is_installed():
    words = [sys.executable, "-m", "guard", "train", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Trains a student" in done.stdout


def test_the_console_command_names_the_stages(capsys):
    console.main([])
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in console.COMMANDS)
    with pytest.raises(SystemExit) as end:
        console.main(["nosuch"])
    assert end.value.code == 2 and capsys.readouterr().err.startswith("error: there is no command 'nosuch'")
    for name in console.COMMANDS:
        with pytest.raises(SystemExit) as end:
            console.main([name, "--help"])
        assert end.value.code == 0


def test_attacks_by_name_are_checked_before_the_training(toy, tmp_path, refused):
    made = [
        "--teacher",
        toy / "teacher/checkpoint.pt",
        "--distilled",
        toy / "images",
        "--labels",
        toy / "labels",
    ]
    words = ["--dataset", "toy", "--root", toy, *made, "--output", tmp_path / "student", *TOY["train"]]
    assert "no attack 'nosuch'" in refused("train", *words, "--attacks", "fgsm,nosuch")
    assert not (tmp_path / "student").exists()


def test_labels_are_found_by_names_of_classes_whatever_their_order(toy):
    """Class folders of others are found by the alphabet; the data set's order may be another."""
    ours = guard.load_distilled(toy / "images")
    turned = library.Distilled(ours.packed.in_order_of(ours.classes[::-1]))
    assert turned.fingerprint != ours.fingerprint
    pairs = zip(ours.labelled(toy / "labels", 0), turned.labelled(toy / "labels", 0), strict=True)
    for (views, logits), (same_views, turned_logits) in pairs:
        assert torch.equal(views, same_views)
        assert torch.equal(logits, turned_logits.flip(1)) and not torch.equal(logits, turned_logits)


def test_what_speaks_against_the_numbers_is_a_warning():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 3), torch.nn.Softmax(dim=1))
    pixels, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    with pytest.warns(UserWarning, match="the outputs are probabilities already"):
        found = guard.evaluate(model.eval(), pixels, labels, attacks="fgsm", epsilon=2 / 255)
    assert set(found) == {"clean", "fgsm"}

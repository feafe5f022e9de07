"""--precision auto: chosen once by the processor, then kept; and bf16 that agrees with float64."""

import copy
import dataclasses
import shutil

import pytest
import torch
import torch.nn.functional as F
from conftest import TOY, command, toy_student

from guard.attacks import robustness
from guard.method import regularizers
from guard.networks import checkpoint, layout, models
from guard.recipes import recipe
from guard.run import devices, precision, records
from guard.run.manifest import Manifest

CPU = torch.device("cpu")
AUTO = ["--precision", "auto"]
TOY_RECOVERY, TOY_LABELS, TOY_STUDENT = ([*TOY[stage], *AUTO] for stage in ("recover", "relabel", "train"))


def pretrain(root, output, *more):
    return [
        "pretrain",
        "--dataset",
        "toy",
        "--root",
        root,
        "--output",
        output,
        *TOY["pretrain"],
        *AUTO,
        *more,
    ]


@pytest.fixture
def processor(monkeypatch):
    """processor(name...): from now on the CPU has these instructions and no others of bf16."""

    def change(*instructions):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))

    return change


@pytest.mark.parametrize(
    "instructions, chosen", [((), "fp32"), (("avx512_bf16",), "bf16"), (("amx_bf16",), "bf16")]
)
def test_auto_is_the_processors_best(instructions, chosen, processor):
    processor(*instructions, "avx2")
    settings = precision.settled(recipe("cifar10").pretrain, {}, CPU)
    assert settings.precision == chosen and settings.channels_last == (chosen == "bf16")
    on_a_gpu = precision.settled(recipe("cifar10").pretrain, {}, torch.device("cuda", 0))
    assert on_a_gpu.precision == "fp32" and not on_a_gpu.channels_last


def test_a_precision_that_is_named_stays(processor):
    processor("amx_bf16")
    named = dataclasses.replace(recipe("cifar10").train, precision="fp32")
    assert precision.settled(named, {"precision": "bf16", "channels_last": True}, CPU) is named


def test_a_group_of_other_processors_takes_what_the_first_of_them_does(monkeypatch):
    first = {"precision": "fp32", "channels_last": False}
    monkeypatch.setattr(precision, "fastest", lambda device: {"precision": "bf16", "channels_last": True})
    monkeypatch.setattr(precision.processes, "of_the_first", lambda own: first)
    settings = precision.settled(recipe("cifar10").pretrain, {}, CPU)
    assert (settings.precision, settings.channels_last) == ("fp32", False)


def test_auto_does_not_leave_a_refused_layout_out_of_account(refused):
    for given in ([], ["--precision", "auto"]):
        words = ["pretrain", "-d", "cifar10", "--output", "x", "--no-channels-last", *given]
        assert "name a precision beside --no-channels-last" in refused(*words)
    words[-1] = "bf16"
    assert command(*words, "--check") == 0
    words = ["pretrain", "-d", "digits", "--output", "x", "--no-channels-last"]  # whose precision is fp32
    assert command(*words, "--check") == 0


def of_record(log, stage):
    return records.read(log)[stage]["settings"]


def test_each_stage_says_which_was_taken(toy, tmp_path, processor):
    processor("amx_bf16")
    teacher, log = ["--teacher", tmp_path / "t/checkpoint.pt"], ["--record", tmp_path / "log.json"]
    assert command(*pretrain(toy, tmp_path / "t"), *log) == 0
    assert command("recover", *teacher, *log, "--output", tmp_path / "images", *TOY_RECOVERY) == 0
    distilled = ["--distilled", tmp_path / "images"]
    assert command("relabel", *teacher, *log, *distilled, "--output", tmp_path / "l", *TOY_LABELS) == 0
    words = ["train", "--dataset", "toy", "--root", toy, *teacher, *log, *distilled, *TOY_STUDENT]
    assert command(*words, "--labels", "online", "--epochs", 2, "--output", tmp_path / "s") == 0
    for stage in ("pretrain", "recover", "relabel", "train"):
        settings = of_record(tmp_path / "log.json", stage)
        assert settings["precision"] == "bf16" and settings["channels_last"] is True, stage
    assert of_record(tmp_path / "log.json", "train")["labels"]["precision"] == "bf16"


def test_what_was_made_in_another_precision_stays_finished_and_goes_on(toy, tmp_path, processor, capsys):
    """A folder is not refused, and an unfinished one not mixed, since the processor is another."""
    processor()
    assert command(*pretrain(toy, tmp_path / "t", "--precision", "fp32")) == 0
    words = ["recover", "--teacher", tmp_path / "t/checkpoint.pt", "--output", tmp_path / "images"]
    assert command(*words, *TOY_RECOVERY) == 0
    shutil.copytree(tmp_path / "images", before := tmp_path / "before")
    processor("amx_bf16")
    capsys.readouterr()
    assert command(*pretrain(toy, tmp_path / "t")) == 0
    assert command(*words, *TOY_RECOVERY) == 0
    assert capsys.readouterr().out.count("is finished; --force") == 2
    next((tmp_path / "images").glob("*/*_1.png")).unlink()
    assert command(*words, *TOY_RECOVERY) == 0
    assert Manifest(tmp_path / "images", form="guard-images-1", what="", stage="").read() == (
        Manifest(before, form="guard-images-1", what="", stage="").read()
    )
    assert command(*words, *TOY_RECOVERY, "--force") == 0
    assert of_record(tmp_path / "images/log.json", "recover")["precision"] == "bf16"


def test_another_precision_by_name_is_other_work(toy, tmp_path, refused):
    assert command(*pretrain(toy, tmp_path / "t", "--precision", "fp32")) == 0
    assert "other precision;" in refused(*pretrain(toy, tmp_path / "t", "--precision", "bf16"))


# ---- agreement with float64 ----------------------------------------------------------------------


def a_few_steps(model, pixels, labels, steps=10):
    """Trains the model a little: at the very start the regularizer's gradient is next to nothing."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(pixels), labels).backward()
        optimizer.step()


def direction(model, settings, pixels, labels, kind, dtype):
    """The gradient of GUARD's penalty by all weights, as one float64 vector."""
    model = copy.deepcopy(model).to(dtype)
    layout.arrange(model.network, channels_last=kind == "bf16")
    x = model.normalize(pixels.to(dtype))
    with devices.computing(kind, CPU):
        regularizers.penalty(settings, model.network, x, labels, len(labels)).backward()
    found = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return torch.cat([gradient.double().flatten() for gradient in found])


@pytest.mark.parametrize(
    "name, count", [("convnet", 16), pytest.param("resnet18", 32, marks=pytest.mark.slow)]
)
def test_guards_second_backward_in_bf16_points_where_float64_does(name, count):
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(0)
    model = models.build(
        name, classes=10, image_size=32, stem="cifar", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    labels = torch.arange(count) % 10
    smooth = F.interpolate(torch.rand(count, 3, 8, 8, generator=draws), size=32, mode="bilinear")
    a_few_steps(model, smooth, labels)
    settings = dataclasses.replace(recipe("cifar10").pretrain, curvature=True)
    exact = direction(model, settings, smooth, labels, "fp32", torch.float64)
    found = direction(model, settings, smooth, labels, "bf16", torch.float32)
    assert F.cosine_similarity(found, exact, dim=0) >= 0.99
    assert 0.95 < found.norm() / exact.norm() < 1.05
    assert not torch.equal(found, direction(model, settings, smooth, labels, "fp32", torch.float32))


def test_evaluation_is_in_float32_whatever_the_network_was_trained_in(toy, tmp_path, processor, monkeypatch):
    seen = []
    processor("amx_bf16")
    assert command(*pretrain(toy, tmp_path / "t")) == 0
    network = checkpoint.load(tmp_path / "t/checkpoint.pt", "teacher")
    assert {tensor.dtype for tensor in network.state.values() if tensor.is_floating_point()} == {
        torch.float32
    }
    forward = models.PixelModel.forward
    monkeypatch.setattr(
        models.PixelModel,
        "forward",
        lambda self, pixels: seen.append(torch.is_autocast_enabled("cpu")) or forward(self, pixels),
    )
    words = ["--dataset", "toy", "--root", toy, "--checkpoint", tmp_path / "t/checkpoint.pt", "--workers", 0]
    assert command("train.evaluate", *words, "--protocol", "quick") == 0
    assert seen and not any(seen)


def test_a_training_is_measured_in_its_precision_and_its_result_in_float32(toy, tmp_path, monkeypatch):
    """Whether autocast is on when a network computes logits for an accuracy."""
    seen, accuracy = [], robustness.accuracy

    def watched(model, *settings, **more):
        hook = model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        try:
            return accuracy(model, *settings, **more)
        finally:
            hook.remove()

    monkeypatch.setattr(robustness, "accuracy", watched)
    assert command(*pretrain(toy, tmp_path / "t", "--precision", "bf16")) == 0
    assert seen == [True, True, False]  # two epochs, the result
    seen.clear()
    words = toy_student(toy, "--precision", "bf16", "--evaluate-every", 1, "--output", tmp_path / "s")
    assert command(*words) == 0
    assert seen == [True, False]

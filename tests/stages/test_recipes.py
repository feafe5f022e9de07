"""The defaults against the published recipes, as literals."""

import dataclasses
import re

import pytest
from conftest import command

import train.__main__
from guard.distilled.soft_labels import LabelRecipe, draw_epoch
from guard.errors import UserError
from guard.recipes import STUDENT_RECIPES, _print, recipe, relabel_batch_size, resolve
from guard.registry import ATTACKS, PROTOCOLS
from guard.settings import as_dict
from recover import sre2l
from train import hard_labels, judge

IMAGENET_FAMILY = {
    "pretrain": {
        "model": "resnet18",
        "image_size": 224,
        "augmentation": "resized-crop",
        "epochs": 50,
        "batch_size": 32,
        "learning_rate": 0.025,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "stem": "standard",
    },
    "recover": {
        "r_bn": 0.01,
        "step_size": 0.25,
        "iterations": 2000,
        "beta1": 0.5,
        "beta2": 0.9,
        "first_layer_weight": 10.0,
        "crop": True,
        "crop_scale": 0.08,
        "roll": 32,
        "cda": False,
        "cda_milestone": 1.0,
        "cda_schedule": "cosine",
        "classes_per_problem": 100,
        "image_format": "png",
        "images_per_class": 10,
    },
    "relabel": {
        "epochs": 300,
        "augmentation": "resized-crop",
        "mix": "cutmix",
        "mix_alpha": 1.0,
        "teacher_mode": "eval",
        "batch_size": 0,
    },
    "train": {"model": "resnet18", "temperature": 20.0, "learning_rate": 1e-3, "weight_decay": 0.01},
    "evaluate": {"protocol": "paper", "epsilon": 1 / 255},
}
TINY = {
    "pretrain": {"stem": "tiny", "image_size": 224},
    "recover": {"r_bn": 1.0, "step_size": 0.1, "iterations": 2000},
    "relabel": {"batch_size": 100},
}
CIFAR = {
    "pretrain": {
        "image_size": 32,
        "stem": "cifar",
        "augmentation": "pad-crop",
        "epochs": 200,
        "batch_size": 128,
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "momentum": 0.9,
    },
    "recover": {
        "r_bn": 0.01,
        "step_size": 0.25,
        "iterations": 1000,
        "crop": False,
        "roll": 4,
        "crop_scale": 0.4,
    },
    "relabel": {
        "epochs": 400,
        "augmentation": "pad-crop",
        "mix": "mixup",
        "mix_alpha": 0.8,
        "batch_size": 128,
    },
    "train": {"temperature": 30.0, "learning_rate": 1e-3, "weight_decay": 0.01},
}
REGULARIZER = {
    "pretrain": {
        "regularizer": "gradient-norm",
        "lambda": 100.0,
        "h": 3.0,
        "loss_beta": 1e-4,
        "gradient_beta": 1e-4,
        "trades_beta": 1e-4,
        "curvature": False,
        "gradient_regularization": False,
        "adversarial": "none",
        "clip_grad_norm": 0.0,
    }
}
EXPECTED = {
    "imagenette": [IMAGENET_FAMILY, REGULARIZER],
    "wolf": [IMAGENET_FAMILY, REGULARIZER],
    "imagenet": [
        {**IMAGENET_FAMILY, "relabel": {**IMAGENET_FAMILY["relabel"], "batch_size": 100}},
        REGULARIZER,
    ],
    "tiny-imagenet": [TINY, REGULARIZER],
    "cifar10": [CIFAR, REGULARIZER],
    "cifar100": [CIFAR, REGULARIZER],
}


@pytest.mark.parametrize("dataset", EXPECTED)
def test_defaults_are_the_published_ones(dataset):
    for tables in EXPECTED[dataset]:
        for stage, numbers in tables.items():
            found = as_dict(getattr(recipe(dataset), stage))
            assert {name: found[name] for name in numbers} == numbers


def test_normalization():
    assert (
        (recipe("imagenette").mean, recipe("imagenette").std)
        == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        == (recipe("tiny-imagenet").mean, recipe("tiny-imagenet").std)
    )
    assert (recipe("cifar10").mean, recipe("cifar10").std) == (
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    )
    assert (recipe("cifar100").mean, recipe("cifar100").std) == (
        (0.5071, 0.4867, 0.4408),
        (0.2675, 0.2565, 0.2761),
    )


def test_label_batches():
    assert [relabel_batch_size(0, per_class) for per_class in (1, 9, 10, 50)] == [
        10,
        90,
        100,
        100,
    ] and relabel_batch_size(128, 1) == 128


MODERN = {
    "relabel": {
        "epochs": 600,
        "batch_size": 50,
        "augmentation": "resized-crop",
        "crop_scale": 0.25,
        "mix": "cutmix",
        "mix_alpha": 1.0,
    },
    "train": {"temperature": 4.0, "squared_temperature": True, "learning_rate": 2e-3, "loss": "kl"},
}
OF_IMAGE_METHODS = {
    "candidates": 300,  # RDED
    "real_batch": 256,  # DC, and what follows
    "image_rate": 0.1,
}


def test_the_modern_recipe_is_the_measured_one():
    for stage, numbers in MODERN.items():
        found = as_dict(resolve("cifar10", stage, {}, "modern"))
        assert {name: found[name] for name in numbers} == numbers


def test_the_other_image_methods_have_their_published_numbers():
    found = as_dict(recipe("cifar10").recover)
    assert {name: found[name] for name in OF_IMAGE_METHODS} == OF_IMAGE_METHODS


def test_attacks_and_protocols_are_the_frozen_ones():
    settings = {name: attack.settings for name, attack in ATTACKS.items()}
    pgd = {"relative_step": 0.25, "random_start": True}
    assert settings["pgd20"] == {**pgd, "steps": 20} and settings["pgd100"] == {**pgd, "steps": 100}
    assert settings["mim"] == {"relative_step": 1.0, "steps": 20, "decay": 1.0}
    assert settings["cw"] == {"c": 1e-4, "kappa": 0.0, "steps": 50, "learning_rate": 0.01}
    assert settings["square"] == {"queries": 5000, "p_init": 0.8}
    for suffix, steps in (("", 100), ("-10", 10)):
        assert settings[f"apgd-ce{suffix}"] == {"steps": steps}
        assert settings[f"apgd-dlr{suffix}"] == settings[f"fab{suffix}"] == {"steps": steps, "targets": 9}
    assert ATTACKS["autoattack"].parts == ("apgd-ce", "apgd-dlr", "fab", "square")
    assert ATTACKS["autoattack-paper"].parts == ("apgd-ce-10", "apgd-dlr-10", "fab-10", "square")
    assert PROTOCOLS["paper"] == ("pgd100", "square", "autoattack-paper", "cw", "mim")
    assert PROTOCOLS["standard"] == ("pgd100", "square", "autoattack", "cw", "mim")


NEEDED = {
    "pretrain": ["--dataset", "digits", "--output", "new"],
    "recover": ["--teacher", "t.pt", "--output", "new"],
    "train": ["--dataset", "digits", "--teacher", "t.pt", "--distilled", "images", "--labels", "labels"],
}
NEEDED["train"] += ["--output", "new"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pretrain", "--adversarial", "n", "--epsilon", 2], "perhaps 2/255 is meant"),
        (["pretrain", "--adversarial", "n", "--epsilon", 0], "above 0.0"),
        (["pretrain", "--momentum", 1], "below 1.0"),
        (["recover", "--beta1", 1], "below 1.0"),
        (["train", "--weight-average", 1], "below 1.0"),  # which would keep the first weights
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(words, expected, refused):
    stage, *flags = words
    assert expected in refused(stage, *NEEDED[stage], *flags, "--check")


def test_ten_sign_steps_take_the_published_epsilon(tmp_path, capsys):
    """run.sh's -h, 3, which is the whole range of pixels; a note says so."""
    assert command("pretrain", *NEEDED["pretrain"], "--adversarial", "f", "--epsilon", 3, "--check") == 0
    for epsilon, told in ((3, True), ("8/255", False)):
        words = [
            "--dataset",
            "nosuch",
            "--output",
            tmp_path / "t",
            "--adversarial",
            "f",
            "--epsilon",
            epsilon,
        ]
        assert command("pretrain", *words) == 2  # there are no images
        assert ("note: --epsilon 3 (-h of run.sh)" in capsys.readouterr().err) == told


@pytest.mark.parametrize("name", ["dc", "mtt"])
def test_students_by_others_recipes_learn_the_images_own_labels(name):
    assert resolve("cifar10", "train", {}, name).loss == "cross-entropy"


@pytest.mark.parametrize("name", ["images-per-class", "images_per_class"])
def test_a_default_is_found_by_the_name_that_is_printed(name, capsys):
    _print("digits", "recover", name)
    assert capsys.readouterr().out == "10\n"
    for of_python in ("lambda", "lambda_"):
        _print("digits", "pretrain", of_python)
        assert capsys.readouterr().out == "100.0\n"


def test_the_printed_defaults_say_whose_they_are(capsys):
    _print("--help")
    assert "usage: python -m guard.recipes DATASET" in capsys.readouterr().out
    _print("digitz", "evaluate")
    assert "evaluate (digitz: of any folder of images)" in capsys.readouterr().out
    _print("digits", "evaluate")
    printed = capsys.readouterr().out
    assert "evaluate (digits)" in printed and " 12/255 " in printed


@pytest.mark.parametrize("name", STUDENT_RECIPES)
def test_digits_are_never_mirrored(name):
    """A mirrored 3 is none, whatever recipe, curriculum or augmentation of the student is asked for."""
    images = resolve("digits", "recover", {"cda": True, "iterations": 50})
    assert not sre2l.draw_views(images, sre2l.Problem(0, (0,)), 0, 16)[0].flips.any()
    labels = resolve("digits", "relabel", {"batch_size": 10}, name)
    rows = draw_epoch(LabelRecipe(**dataclasses.asdict(labels)), 100, 16, 10, 0)
    assert not rows["flip"].any()
    for stage in ("pretrain", "train"):
        assert not resolve("digits", stage, {}, name).flip and resolve("cifar10", stage, {}, name).flip


@pytest.mark.parametrize("name", ["cifar10/", "./cifar10"])
def test_a_name_with_a_slash_is_no_data_sets(name, refused, tmp_path):
    """Else its folder is found and its recipe is not: 32 pixels would be seen as 224."""
    assert "is no data set's name" in refused("pretrain", "--dataset", name, "--output", tmp_path / "t")
    with pytest.raises(UserError, match="no such default"):
        _print(name)


def test_a_layout_that_auto_chooses_is_told_by_the_check(refused):
    """run.sh checks all stages so, before a teacher is trained."""
    words = ["recover", "--dataset", "cifar10", "--teacher", "t.pt", "--output", "x", "--check"]
    assert command(*words) == 0
    assert "--precision auto chooses" in refused(*words, "--no-channels-last")


def test_a_path_that_is_empty_needs_a_value(refused):
    """As an unset variable of the shell leaves it; Path("") is the folder where one is."""
    assert "--checkpoint: needs a value" in refused("train.evaluate", "--checkpoint", "", "-d", "digits")
    assert "--output: needs a value" in refused("pretrain", "--dataset", "digits", "--output=")
    judged = ["train.judge", "-d", "digits", "--output", "x", "--distilled", "a", ""]
    assert "--distilled: needs a value" in refused(*judged)


def test_the_defaults_of_a_named_recipe_are_printed(capsys):
    _print("cifar10", "--recipe", "modern", "train", "learning-rate")
    assert capsys.readouterr().out == "0.002\n"
    _print("cifar10", "train", "--recipe", "modern")
    printed = capsys.readouterr().out
    assert re.search(r"temperature +4 ", printed) and re.search(r"view-epsilon +2/255 ", printed)
    _print("cifar10", "train", "temperature")
    assert capsys.readouterr().out == "30.0\n"
    for words in (("cifar10", "--recipe", "modrn"), ("cifar10", "--recipe"), ("--recipe", "modern")):
        with pytest.raises(UserError, match="no such default"):
            _print(*words)


@pytest.mark.parametrize("module", [train.__main__, judge])
def test_help_has_the_defaults_of_the_named_recipe(module, capsys):
    def help_of(*words):
        with pytest.raises(SystemExit):
            module.main([*words, "--help"])
        return " ".join(capsys.readouterr().out.split())

    modern = help_of("--dataset", "cifar10", "--recipe", "modern")
    assert "settings of train (defaults of cifar10, recipe modern)" in modern
    assert "optimizer's learning rate [0.002]" in modern and "own views, epochs [600]" in modern
    assert "[2/255]" in modern and "0.0078" not in modern
    assert "optimizer's learning rate [0.001]" in help_of("-d", "cifar10")
    assert "(defaults of recipe modern)" in help_of("--recipe=modern")
    assert "defaults of" not in help_of("--recipe", "modrn")


def test_a_judges_help_leaves_out_what_it_refuses(capsys):
    with pytest.raises(SystemExit):
        judge.main(["--help"])
    shown = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    assert not shown & hard_labels.OF_SOFT_LABELS and "--networks" in shown

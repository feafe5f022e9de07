"""The judge of others' distilled sets: its students, its table, its scores, what it refuses."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import command, write_folder

import guard
from guard import cli, recipes
from guard.attacks import metrics
from guard.data import augment, find, images, random_set
from guard.distilled import image_folder
from guard.method import schedules
from guard.networks import checkpoint
from guard.paper import judged
from guard.settings import Train
from train import hard_labels, inputs, judged_sets, judging, student
from train import judge as judge_flags

FLAGS = ["--dataset", "digits", "--recipe", "dc", "--epochs", 2, "--images", 2, "--attacks", "fgsm"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with a file of DC's layout, of MTT's, and of class folders: two digits of each class."""
    folder = tmp_path_factory.mktemp("sets")
    pixels, labels = guard.load_images("digits", split="train", per_class=2)
    normalized = (pixels - 0.5) / 0.5
    torch.save({"data": [[normalized, labels]]}, folder / "res_DC.pt")
    torch.save(normalized, folder / "images_best.pt")
    torch.save(labels, folder / "labels_best.pt")
    names = [str(label) for label in range(10)]
    write_folder(folder, name="other", classes=names, size=16, count=2, splits=["ours"])
    (folder / "other" / "ours").rename(folder / "ours")
    return folder


def judge(sets, output, *more):
    return command("train.judge", "--distilled", sets, "--output", output, *FLAGS, *more)


def test_all_sets_of_a_folder_stand_in_one_table_with_their_scores(sets, tmp_path, capsys):
    words = ["--networks", "convnet-32, convnet-in", "--seeds", 2, "--random", "--unaugmented"]
    words += ["--full", "95,90", "--augmentation", "shift"]
    assert judge(sets, tmp_path / "out", *words) == 0
    printed = capsys.readouterr().out
    table = (tmp_path / "out" / "judge.md").read_text()
    assert printed.endswith(table + "\n") and "seeds: 2" in table
    assert "recipe dc but epochs 2, augmentation shift, evaluated images per class 2; seeds" in table
    rows = json.loads((tmp_path / "out" / "judge.json").read_text())["rows"]
    random = "random training images, 2 per class"
    assert [(row["set"], row["network"], row["views"]) for row in rows] == [
        (name, network, views)
        for name in (sets.name, "ours", "res_DC", random)
        for network in ("convnet-32", "convnet-in")
        for views in ("as set", "unaugmented")
    ]
    by_kind = {(row["set"], row["network"], row["views"]): row for row in rows}
    row, beside = by_kind["res_DC", "convnet-in", "as set"], by_kind[random, "convnet-in", "as set"]
    logs = [
        tmp_path / "out" / "res_DC" / "as-set" / f"convnet-in-seed{seed}" / "log.json" for seed in range(2)
    ]
    recorded = [
        json.loads(log.read_text())["evaluate student"]["attacks"]["clean"]["accuracy"] for log in logs
    ]
    clean = sum(recorded) / 2
    assert row["accuracies"]["clean"][0] == pytest.approx(clean)
    views = [json.loads(log.read_text())["train"]["settings"]["labels"]["seed"] for log in logs]
    assert views == [0, 1], "a seed has views of its own"
    drawn = {
        json.loads(log.read_text())["train"]["settings"]["images"]
        for log in (tmp_path / "out").glob("random*/as-set/convnet-in-seed*/log.json")
    }
    assert len(drawn) == 2, "and random images of its own"
    other = by_kind["res_DC", "convnet-32", "as set"]
    assert row["HLR"] == pytest.approx(90 - clean)
    assert other["HLR"] == pytest.approx(95 - other["accuracies"]["clean"][0])
    assert row["IOR"] == pytest.approx(clean - beside["accuracies"]["clean"][0])
    assert {"LRS", "ARS"} <= set(row) and "HLR" not in beside and "ARS" not in beside
    (tmp_path / "judged").mkdir()
    shutil.copy(tmp_path / "out" / "judge.json", tmp_path / "judged")
    of_dc = judged.of(judged.read(tmp_path), "dc", ["dc", "dc+guard"], "digits", 2)
    assert [(found.network, found.runs) for found in of_dc] == [("convnet-32", 2), ("convnet-in", 2)]
    assert of_dc[1].accuracies == row["accuracies"]
    assert of_dc[1].unlike_the_recipe["epochs"] == 2
    # The same images in another layout give the same student.
    other = by_kind[sets.name, "convnet-in", "as set"]
    assert other["accuracies"] == row["accuracies"] != by_kind["ours", "convnet-in", "as set"]["accuracies"]


def test_a_row_tells_of_the_attacks_that_were_asked_for(sets, tmp_path):
    """Whatever the student met in earlier calls; so sets of which one is new stand side by side."""
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        shutil.copy(sets / "res_DC.pt", tmp_path / "two" / f"{name}.pt")
    words = [tmp_path / "out", "--networks", "convnet-32", "--attacks"]
    assert judge(tmp_path / "two" / "a.pt", *words, "fgsm,mim") == 0
    (before,) = json.loads((tmp_path / "out" / "judge.json").read_text())["rows"]
    assert judge(tmp_path / "two", *words, "fgsm") == 0
    first, second = json.loads((tmp_path / "out" / "judge.json").read_text())["rows"]
    assert set(before["accuracies"]) == {"clean", "fgsm", "mim"}
    assert set(first["accuracies"]) == set(second["accuracies"]) == {"clean", "fgsm"}
    # The same images by the same seed.
    assert {**first, "set": ""} == {**second, "set": ""}


def test_a_folder_of_several_says_what_of_it_is_none(sets, tmp_path, capsys, refused):
    mixed = tmp_path / "mixed"
    (mixed / "mtt-2").mkdir(parents=True)
    for name in ("images_best.pt", "labels_best.pt"):
        shutil.copy(sets / name, mixed / "mtt-2")
    shutil.copytree(sets / "ours", mixed / "part")
    shutil.rmtree(mixed / "part" / "9")
    (mixed / "notes.txt").write_text("")
    assert judge(mixed, tmp_path / "out", "--networks", "convnet-32") == 0
    (row,) = json.loads((tmp_path / "out" / "judge.json").read_text())["rows"]
    assert (row["set"], row["images per class"]) == ("mtt-2", 2)
    told = capsys.readouterr().err
    assert "not judged; notes.txt: not .pt or .pth; part: no folder 9" in told
    words = ["train.judge", "--output", tmp_path / "no", *FLAGS, "--distilled"]
    assert "part is no distilled set of these classes" in refused(*words, mixed / "part")
    # A path that is named is taken at its word: its reader says what is wrong with it.
    assert "notes.txt is truncated, damaged or no file of tensors" in refused(*words, mixed / "notes.txt")
    # The folder itself is what stage train takes, too.
    words = [
        "train",
        *FLAGS[:6],
        "--images",
        1,
        "--attacks",
        "fgsm",
        "--labels",
        "hard",
        "--model",
        "convnet-32",
    ]
    assert command(*words, "--distilled", mixed / "mtt-2", "--output", tmp_path / "student") == 0


def test_of_mtts_folder_the_best_images_are_read_or_those_that_are_not_whitened(tmp_path):
    """As its code leaves them: iterations, and with ZCA what its inverse transform made of each."""
    plain, zca = tmp_path / "mtt-2", tmp_path / "zca"
    for folder, names in ((plain, ("0", "100", "best")), (zca, ("5000", "zca_5000", "best"))):
        folder.mkdir()
        for name in names:
            (folder / f"images_{name}.pt").touch()
            (folder / f"labels_{name.removeprefix('zca_')}.pt").touch()
    expected = {"mtt-2": plain / "images_best.pt"}
    assert judged_sets.find([plain], ["0"]) == expected
    assert judged_sets.find([zca], ["0"]) == {"images_zca_5000": zca / "images_zca_5000.pt"}
    assert judged_sets.find([tmp_path], ["0"]) == expected  # beside a note of the other


def test_files_of_one_folder_that_are_of_several_methods_do_not_hide_each_other(sets, tmp_path, capsys):
    """Whitened images of one say nothing of another's, nor does MTT's best one; what is no image is told."""
    images, labels = (torch.load(sets / f"{name}_best.pt") for name in ("images", "labels"))
    for name in ("mtt-2", "best"):
        torch.save(images, tmp_path / f"images_{name}.pt")
    for name in ("mtt-2", "best", "tesla-2"):
        torch.save(labels, tmp_path / f"labels_{name}.pt")
    torch.save((images + 1) / 2, tmp_path / "images_zca_tesla-2.pt")
    torch.save(torch.tensor(0.1), tmp_path / "lr_best.pt")
    torch.save(labels, tmp_path / "best_labels.pt")
    found = judged_sets.find([tmp_path], [str(label) for label in range(10)])
    assert list(found) == [tmp_path.name, "images_mtt-2", "images_zca_tesla-2"]
    told = capsys.readouterr().err
    assert "not judged; best_labels.pt: no images; lr_best.pt: no images" in told and told.count(";") == 2


def test_a_set_goes_by_its_folders_name_also_where_it_is_named_from_within(sets, tmp_path, monkeypatch):
    (tmp_path / "mtt-2" / "0").mkdir(parents=True)
    for name in ("images_best.pt", "labels_best.pt"):
        shutil.copy(sets / name, tmp_path / "mtt-2")
    (tmp_path / "linked").symlink_to(tmp_path / "mtt-2")
    monkeypatch.chdir(tmp_path / "mtt-2" / "0")
    for given in ("..", "../images_best.pt", "../../linked/images_best.pt"):
        name = "linked" if "linked" in given else "mtt-2"
        assert list(judged_sets.find([Path(given)], ["0"])) == [name]


def test_students_do_not_come_into_the_folder_of_the_set(sets, tmp_path, refused):
    shutil.copytree(sets / "ours", tmp_path / "mine")
    words = ["train.judge", *FLAGS, "--distilled", tmp_path / "mine", "--output", tmp_path]
    assert "mine is in the folder of the images" in refused(*words)
    words[-1] = tmp_path / "mine" / "judged"
    assert "mine/judged/mine is in the folder of the images" in refused(*words)
    assert len(list((tmp_path / "mine").iterdir())) == 10


def test_each_set_has_a_folder_of_its_own(sets, tmp_path):
    for name in ("a,b", "ab"):
        (tmp_path / "sets").mkdir(exist_ok=True)
        shutil.copy(sets / "res_DC.pt", tmp_path / "sets" / f"{name}.pt")
    assert judge(tmp_path / "sets", tmp_path / "out", "--networks", "convnet-32", "--random") == 0
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert folders == ["a,b", "ab", "random-training-images-2-per-class"]


def test_students_that_are_there_are_not_trained_again(sets, tmp_path, capsys):
    assert judge(sets / "res_DC.pt", tmp_path / "out", "--networks", "convnet-32") == 0
    path = tmp_path / "out" / "res_DC" / "as-set" / "convnet-32-seed0" / "checkpoint.pt"
    written = path.stat().st_mtime_ns
    assert judge(sets / "res_DC.pt", tmp_path / "out", "--networks", "convnet-32", "--seeds", 2) == 0
    assert path.stat().st_mtime_ns == written and "is finished" in capsys.readouterr().out
    made = checkpoint.load(path, "student")
    assert made.settings["optimizer"] == "sgd" and made.settings["labels"]["augmentation"] == "none"


def test_mtt_judges_by_dsa_but_without_views_not(sets, tmp_path):
    words = ["--networks", "convnet-32", "--recipe", "mtt", "--unaugmented"]
    assert judge(sets / "res_DC.pt", tmp_path, *words) == 0
    made = {
        views: checkpoint.load(tmp_path / "res_DC" / views / "convnet-32-seed0" / "checkpoint.pt", "student")
        for views in ("as-set", "unaugmented")
    }
    assert made["as-set"].settings["dsa"] and not made["unaugmented"].settings["dsa"]
    assert made["as-set"].fingerprint != made["unaugmented"].fingerprint


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--networks", "convnet-33"], "convnet-33"),
        (["--model", "convnet-32"], "--networks"),
        (["--temperature", 3], "--temperature"),
        (["--full", 120], "--full"),
        (["--full", 0.85], "--full"),
        (["--unaugmented"], "recipe dc has no views to leave out"),
        (
            ["--networks", "convnet-32,convnet-in", "--full", 90],
            "--full needs an accuracy for each network, 2",
        ),
        (["--epsilon", "0,0.1"], "--epsilon"),
        (["--record", "log.json"], "--record"),
        (["--attacks", "pgd21"], "pgd21"),
        (["--image-size", 32], "--image-size"),
        (["--seeds", 0], "--seeds"),
        (["--networks", "convnet-in,"], "has an empty name"),
        (["--networks", "convnet-32,convnet-32"], "names one twice"),
        (["--networks", "convnet-32,alexnet"], "alexnet does not take images of 16 pixels"),
        (["--random", "--root", "nowhere", "--dataset", "cifar10"], "nowhere"),
    ],
)
def test_what_cannot_be_judged_is_told_before_the_first_student(more, named, sets, tmp_path, refused):
    words = ["train.judge", "--distilled", sets, "--output", tmp_path / "out", *FLAGS, *more]
    assert named in refused(*words)
    assert not (tmp_path / "out").exists()


def test_a_judge_is_one_process(sets, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(judging.processes, "world_size", lambda: 2)
    words = ["train.judge", "--distilled", sets, "--output", tmp_path / "out", *FLAGS]
    assert "the judge is one process" in refused(*words)


def test_a_single_attack_has_no_ratio(sets, tmp_path):
    words = ["--networks", "convnet-32", "--attacks", "fgsm"]
    assert judge(sets / "res_DC.pt", tmp_path / "out", *words) == 0
    (row,) = json.loads((tmp_path / "out" / "judge.json").read_text())["rows"]
    assert row["largest drop"] is not None and not {"RR", "I-RR"} & {*row}


def test_a_folder_without_sets_and_two_sets_of_one_name_are_refused(sets, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    words = ["train.judge", "--output", tmp_path / "out", *FLAGS, "--distilled"]
    assert "no distilled set" in refused(*words, tmp_path / "empty")
    assert "there is nothing at" in refused(*words, tmp_path / "nowhere")
    assert "res_DC" in refused(*words, sets / "res_DC.pt", sets / "res_DC.pt")


def test_random_images_stand_beside_sets_of_equal_classes_alone(sets, tmp_path, refused):
    images, labels = torch.load(sets / "res_DC.pt")["data"][0]
    torch.save({"data": [[images[:-1], labels[:-1]]]}, tmp_path / "unequal.pt")
    words = ["train.judge", "--output", tmp_path / "out", *FLAGS, "--distilled", tmp_path / "unequal.pt"]
    assert "from 1 to 2 images of a class" in refused(*words, "--random")


def test_a_class_that_is_the_largest_of_no_label_counts_as_unequal(sets, tmp_path, refused):
    images, labels = torch.load(sets / "res_DC.pt")["data"][0]
    shares = torch.eye(10)[labels.clamp(min=1)]
    torch.save({"data": [[images, shares]]}, tmp_path / "soft.pt")
    words = ["train.judge", "--output", tmp_path / "out", *FLAGS, "--distilled", tmp_path / "soft.pt"]
    assert "from 0 to 4 images of a class" in refused(*words, "--random", "--soft-labels")


def test_a_set_that_is_called_as_random_images_are_is_refused(sets, tmp_path, refused):
    shutil.copy(sets / "res_DC.pt", tmp_path / "random-training-images-2-per-class.pt")
    words = ["train.judge", "--output", tmp_path / "out", *FLAGS, "--distilled", tmp_path, "--random"]
    assert "would share a folder; rename the set" in refused(*words)
    assert not (tmp_path / "out").exists()


def test_a_sets_name_may_be_of_any_bytes(sets, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9s.pt")
    shutil.copy(sets / "res_DC.pt", path)
    assert judge(path, tmp_path / "out", "--networks", "convnet-32") == 0
    assert "| r\\udce9s |" in (tmp_path / "out" / "judge.md").read_text(encoding="utf-8")


def test_flags_that_nothing_reads_are_told(sets, tmp_path, capsys):
    words = ["--networks", "convnet-32", "--momentum", 0.3]
    assert judge(sets / "res_DC.pt", tmp_path / "dc", *words) == 0
    assert "--momentum: not read" not in capsys.readouterr().err
    assert judge(sets / "res_DC.pt", tmp_path / "paper", *words, "--recipe", "paper") == 0
    assert "--momentum: not read in training these students" in capsys.readouterr().err
    words += ["--crop-scale", 0.5]  # of another augmentation than the recipe's
    assert judge(sets / "res_DC.pt", tmp_path / "crops", *words) == 0
    assert "--crop-scale: not read" in capsys.readouterr().err
    contents = json.loads((tmp_path / "crops" / "judge.json").read_text())
    assert "crop scale" not in contents["unlike the recipe"] and "momentum" in contents["unlike the recipe"]


@pytest.mark.parametrize(("images", "told"), [(10, None), (2, 2), (0, "all")])
def test_a_judgement_says_where_it_attacks_other_images_than_the_recipe(images, told):
    """The digits' recipe has 10 of each class."""
    options = judge_flags._parser([]).parse_args(
        ["--dataset", "digits", "--distilled", "x", "--output", "out", "--images", str(images)]
    )
    settings = {name: cli.resolve(options, "digits", name) for name in ("train", "relabel", "evaluate")}
    settings["train"] = hard_labels.as_settings(settings["train"])
    assert judge_flags._unlike_the_recipe(options, settings).get("evaluated images per class") == told


def test_a_judgement_by_adversarial_views_says_within_which_epsilon(sets, tmp_path, refused):
    words = ["--networks", "convnet-32", "--adversarial-share", 0.5]
    assert judge(sets / "res_DC.pt", tmp_path / "out", *words) == 0
    told = json.loads((tmp_path / "out" / "judge.json").read_text())["unlike the recipe"]
    assert (told["adversarial share"], told["view epsilon"]) == (0.5, "2/255")
    text = (tmp_path / "out" / "judge.md").read_text()
    assert "adversarial share 0.5, view epsilon 2/255" in text.replace("\n", " ") and "momentum" not in told
    words = ["train.judge", "--output", tmp_path / "no", *FLAGS, "--distilled", sets / "res_DC.pt", *words]
    assert "--dsa leaves [0,1]" in refused(*words, "--recipe", "mtt", "--check")
    assert not (tmp_path / "no").exists()


def test_a_folder_that_is_two_sets_is_refused_and_hidden_files_are_none(sets, tmp_path, refused, capsys):
    shutil.copytree(sets / "ours", tmp_path / "both")
    for name in ("images_best.pt", "labels_best.pt"):
        shutil.copy(sets / name, tmp_path / "both")
    words = ["train.judge", "--output", tmp_path / "out", *FLAGS, "--distilled", tmp_path / "both"]
    assert "two sets; name that file" in refused(*words)
    (tmp_path / "one").mkdir()
    shutil.copy(sets / "res_DC.pt", tmp_path / "one")
    (tmp_path / "one" / ".DS_Store").write_text("")
    capsys.readouterr()
    assert list(judged_sets.find([tmp_path / "one"], [str(label) for label in range(10)])) == ["res_DC"]
    assert capsys.readouterr().err == ""


def test_a_judged_resnet_of_small_images_may_keep_their_pixels():
    """By its stem."""
    shapes = {"label_settings": recipes.resolve("digits", "relabel", {}, "dc"), "seed": 0, "clamp": False}
    shapes |= {"dataset": "digits", "root": "data/raw", "distilled": 1, "soft_labels": False}
    for stem in ("cifar", "standard"):
        found = inputs.without_teacher(**shapes, image_size=None, stem=stem)
        assert found.shape.stem == stem


def test_a_student_of_another_stem_is_another_student(sets, tmp_path, capsys, refused):
    """Their weights have the same shapes."""
    words = ["train", *FLAGS, "--distilled", sets / "res_DC.pt", "--labels", "hard", "--model", "resnet18"]
    words += ["--epochs", 1, "--output", tmp_path / "student"]
    assert command(*words) == 0  # by the recipe's, which is not in the settings of earlier versions
    assert command(*words, "--stem", recipes.resolve("digits", "pretrain", {}).stem) == 0
    assert "is finished" in capsys.readouterr().out
    other = {"cifar": "standard", "standard": "cifar"}[recipes.resolve("digits", "pretrain", {}).stem]
    assert "stem" in refused(*words, "--stem", other)


# ---- recipes and scores --------------------------------------------------------------------------


def test_dc_and_mtt_train_by_sgd_with_a_step():
    for name, epochs in (("dc", 300), ("mtt", 1000)):
        settings = recipes.resolve("cifar10", "train", {}, name)
        assert (settings.optimizer, settings.learning_rate, settings.momentum) == ("sgd", 0.01, 0.9)
        assert (settings.schedule, settings.weight_decay) == ("step", 5e-4)
        labels = recipes.resolve("cifar10", "relabel", {}, name)
        assert (labels.epochs, labels.batch_size, labels.mix) == (epochs, 256, "none")
        assert (labels.augmentation, settings.dsa) == ("none", name == "mtt")
    factors = [schedules.step(epoch, 300) for epoch in range(300)]
    assert factors == [1.0] * 152 + [0.1] * 148


def test_sgd_steps_are_those_of_the_formula():
    """v <- m v + g + d w, w <- w - r v, on all weights."""
    settings = Train(optimizer="sgd", momentum=0.8, weight_decay=0.1, learning_rate=0.5, precision="fp32")
    model = torch.nn.Linear(2, 2)
    optimizer = student.optimizer_of(model, settings)
    student.training_step(settings, model, optimizer, torch.device("cpu"))
    expected = [weight.detach().double() for weight in model.parameters()]
    moved = [torch.zeros_like(weight) for weight in expected]
    for number in range(3):
        for place, weight in enumerate(model.parameters()):
            weight.grad = torch.full_like(weight, number - 0.5)
            moved[place] = 0.8 * moved[place] + (number - 0.5) + 0.1 * expected[place]
            expected[place] = expected[place] - 0.5 * moved[place]
        optimizer.step()
    for weight, wanted in zip(model.parameters(), expected):
        torch.testing.assert_close(weight.detach().double(), wanted, rtol=1e-5, atol=1e-6)


def test_the_scores_of_dd_ranking():
    assert metrics.hard_label_recovery(84.0, 50.0) == 34.0
    assert metrics.improvement_over_random(50.0, 30.0) == 20.0
    # As good as all data and no better than random: e^0; the best and the worst there are.
    assert metrics.label_robust_score(0, 0) == pytest.approx(26.894, abs=1e-3)
    assert metrics.label_robust_score(-100, 100) == pytest.approx(100)
    assert metrics.label_robust_score(100, -100) == pytest.approx(0)
    by_hand = 100 * (math.exp(-0.07) - 0.36787944) / (2.71828183 - 0.36787944)
    assert metrics.label_robust_score(34.0, 20.0) == pytest.approx(by_hand)
    by_hand = 100 * (math.exp(0.15) - 0.36787944) / (2.71828183 - 0.36787944)
    assert metrics.augmentation_robust_score(20.0, 10.0) == pytest.approx(by_hand)


def test_random_images_are_those_of_the_image_method(toy):
    """Drawn without a teacher they are what `recover --method random` draws with one."""
    training = images.load(find.find("toy", toy, "train"), 16)
    held = random_set.draw(training, 2, 16, seed=3)
    assert held.labels.tolist() == [0, 0, 1, 1] and held.classes == training.classes
    words = ["recover", "--teacher", toy / "teacher" / "checkpoint.pt", "--method", "random", "--root", toy]
    output = toy / "random-of-the-judge"
    assert command(*words, "--images-per-class", 2, "--seed", 3, "--output", output) == 0
    made = image_folder.load_distilled(output)
    assert torch.equal(made.pixels, augment.as_bytes(augment.as_float(held.pixels)))


def evaluation(clean, pgd, square, worst):
    """An evaluation by protocol standard."""
    found = {"clean": clean, "pgd100": pgd, "square": square, "autoattack": pgd - 1, "cw": square, "mim": pgd}
    attacks = {name: {"accuracy": accuracy} for name, accuracy in found.items()}
    return {"attacks": attacks, "images": 100, "epsilon": 1 / 255, "worst_case": worst}


def test_the_numbers_of_a_row_are_their_formulas():
    """Means over two seeds: 82 clean, and 42, 62, 41, 62, 42 under attack."""
    seeds = [evaluation(80, 40, 60, 30), evaluation(84, 44, 64, 36)]
    row = judging._accuracies(seeds, ["pgd100", "square", "autoattack", "cw", "mim"])
    mean, least = (42 + 62 + 41 + 62 + 42) / 5, 41
    assert row["RR"] == pytest.approx(100 * (1 - (82 - mean) / (82 - least)))
    assert row["I-RR"] == pytest.approx(100 * (1 - (82 - mean) * (82 - least) / 82**2))
    assert row["largest drop"] == pytest.approx(100 * (82 - least) / 82)
    assert row["worst case"] == (33, pytest.approx(math.sqrt(18)))


def test_a_set_is_scored_beside_random_images_seen_in_the_same_views():
    def row(name, views, clean):
        about = {"set": name, "views": views, "network": "convnet", "images per class": 2}
        return {**about, "accuracies": {"clean": (clean, 0)}}

    def scaled(alpha):
        return 100 * (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))

    random = judging.RANDOM.format(2)
    augmented, plain = row("set", judging.AS_SET, 60), row("set", judging.NONE, 50)
    rows = [augmented, plain, row(random, judging.AS_SET, 45), row(random, judging.NONE, 41)]
    for one, over_random, short_of_all in ((augmented, 15, 30), (plain, 9, 40)):
        found = judging._scores(one, rows, {"convnet": 90}, hard=True)
        assert (found["HLR"], found["IOR"]) == (short_of_all, over_random)
        assert found["LRS"] == pytest.approx(scaled(0.5 * over_random / 100 - 0.5 * short_of_all / 100))
        assert ("ARS" in found) == (one is augmented)
    found = judging._scores(augmented, rows, {}, hard=True)
    assert found["ARS"] == pytest.approx(scaled(0.5 * 15 / 100 + 0.5 * 9 / 100)) and "HLR" not in found

"""Image methods other than sre2l: one manifest, one way to resume and to refuse for all of them."""

import functools
import shutil

import pytest
import torch
from conftest import TOY, command

from guard import earlier, registry
from guard.data import find, images
from guard.distilled import image_folder
from guard.report import experiment
from guard.run import records, storage
from recover import recovery


def words(toy, output, *more):
    data = ["--dataset", "toy", "--root", toy, "--teacher", toy / "teacher/checkpoint.pt"]
    return ["recover", *data, "--output", output, "--method", "random", "--images-per-class", 3, *more]


def test_random_images_are_training_images_of_their_class_and_the_manifest_says_which(toy, tmp_path):
    assert command(*words(toy, tmp_path / "images")) == 0
    made = image_folder.load_distilled(tmp_path / "images")
    source = find.find("toy", toy, "train")
    train = images.load(source, 16)
    manifest = storage.read_sealed(tmp_path / "images/manifest.json", "manifest")
    looked_at = [number for part in ("0", "1") for number in manifest["looked_at"][part]]
    chosen = torch.tensor(looked_at)
    assert len(set(looked_at)) == 6 and torch.equal(train.labels[chosen], made.labels)
    assert torch.equal(made.pixels, train.validation(chosen, 16))
    assert manifest["data"] == source.fingerprint and "losses" not in manifest


def test_a_report_leaves_out_what_the_method_does_not_read(toy, tmp_path):
    assert command(*words(toy, tmp_path / "images")) == 0
    entry = storage.read_sealed(tmp_path / "images/log.json", "record")["recover"]
    assert "iterations" in entry["settings"]
    shown = "\n".join(experiment._folded("recover", entry))
    assert "| images_per_class | 3 |" in shown and "| iterations |" not in shown


def test_another_seed_draws_others_and_is_refused_in_the_same_folder(toy, tmp_path, refused):
    assert (
        command(*words(toy, tmp_path / "one")) == command(*words(toy, tmp_path / "other", "--seed", 1)) == 0
    )
    one, other = (image_folder.load_distilled(tmp_path / name) for name in ("one", "other"))
    assert one.fingerprint != other.fingerprint
    assert "other seed" in refused(*words(toy, tmp_path / "one", "--seed", 1))
    assert "other data, images_per_class, method;" in refused(*words(toy, tmp_path / "one")[:-4])


def test_a_method_that_draws_from_torchs_own_generator_makes_the_same_from_one_seed(
    toy, tmp_path, monkeypatch
):
    """And a part the same whether the parts before it are made as well."""

    def plan(request):
        def make(label, progress):
            progress.step()
            return recovery.Made(torch.rand(3, 3, 16, 16))

        return recovery.Plan(
            [
                recovery.Part([(label, n) for n in range(3)], functools.partial(make, label))
                for label in range(len(request.classes))
            ]
        )

    row = registry.IMAGE_METHODS["random"]._replace(function=plan)
    monkeypatch.setitem(registry.IMAGE_METHODS, "random", row)
    made = []
    for name in ("one", "other"):
        torch.manual_seed(len(made))
        assert command(*words(toy, tmp_path / name)) == 0
        made.append(image_folder.load_distilled(tmp_path / name).fingerprint)
    (tmp_path / "other/dog/dog_1.png").unlink()
    assert command(*words(toy, tmp_path / "other")) == 0
    assert made == [image_folder.load_distilled(tmp_path / "other").fingerprint] * 2
    assert command(*words(toy, tmp_path / "third", "--seed", 1)) == 0
    third = image_folder.load_distilled(tmp_path / "third")
    assert third.fingerprint != made[0]
    assert not torch.equal(third.pixels[:3], third.pixels[3:])  # another part, other draws


def test_a_method_that_makes_fewer_images_than_it_names_is_refused(toy, tmp_path, monkeypatch, refused):
    def plan(request):
        def make(progress):
            return recovery.Made(torch.rand(2, 3, 16, 16))

        return recovery.Plan([recovery.Part([(0, number) for number in range(3)], make)])

    row = registry.IMAGE_METHODS["random"]._replace(function=plan)
    monkeypatch.setitem(registry.IMAGE_METHODS, "random", row)
    said = refused(*words(toy, tmp_path / "images"))
    assert "image method random made 2 of the 3 images of a part" in said
    assert not list((tmp_path / "images").rglob("*.png"))


def test_images_of_other_classes_take_the_place_of_all_earlier_ones(toy, tmp_path):
    """The folders of classes that there are no more would be classes without images."""
    assert command(*words(toy, tmp_path / "images")) == 0
    (tmp_path / "images/dog/notes.txt").write_text("mine")
    image_folder.ledger(tmp_path / "images").clear()
    left = sorted(
        path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").rglob("*")
    )
    assert "cat" not in left and "dog/notes.txt" in left


def test_a_stopped_draw_goes_on_with_what_is_missing(toy, tmp_path, capsys):
    assert command(*words(toy, tmp_path / "images")) == 0
    whole = image_folder.load_distilled(tmp_path / "images").fingerprint
    (tmp_path / "images/dog/dog_1.png").unlink()
    kept = (tmp_path / "images/cat/cat_0.png").stat().st_mtime_ns
    capsys.readouterr()
    assert command(*words(toy, tmp_path / "images")) == 0
    assert (tmp_path / "images/cat/cat_0.png").stat().st_mtime_ns == kept
    assert image_folder.load_distilled(tmp_path / "images").fingerprint == whole
    assert command(*words(toy, tmp_path / "images")) == 0 and "is finished" in capsys.readouterr().out


def test_what_cannot_be_drawn_is_named(toy, tmp_path, refused):
    assert "class cat has 6 images, 7 are asked for" in refused(
        *words(toy, tmp_path / "x", "--images-per-class", 7)
    )
    elsewhere = ["--root", tmp_path / "nowhere"]
    assert "no data set 'toy'" in refused(*words(toy, tmp_path / "x", *elsewhere))
    shutil.copytree(toy / "toy", tmp_path / "toy")
    shutil.copytree(tmp_path / "toy/train/dog", tmp_path / "toy/train/cow")
    assert "are not those of the teacher" in refused(*words(toy, tmp_path / "x", "--root", tmp_path))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("loss", ["kl", "mse", "cross-entropy"])
def test_a_student_is_trained_on_them_with_every_loss(loss, toy, tmp_path):
    assert command(*words(toy, tmp_path / "images")) == 0
    made = ["--dataset", "toy", "--root", toy, "--teacher", toy / "teacher/checkpoint.pt"]
    made += [
        "--distilled",
        tmp_path / "images",
        "--labels",
        "online",
        "--epochs",
        2,
        "--output",
        tmp_path / "s",
    ]
    assert command("train", *made, *TOY["train"], "--loss", loss) == 0


def test_a_teacher_without_batch_norm_serves_where_nothing_is_recovered_from_it(toy, tmp_path, refused):
    small = [*TOY["pretrain"], "--model", "vit", "--epochs", 1]
    data = ["--dataset", "toy", "--root", toy]
    assert command("pretrain", *data, "--output", tmp_path / "teacher", *small) == 0
    teacher = ["--teacher", tmp_path / "teacher/checkpoint.pt", "--output", tmp_path / "images"]
    assert "no batch norm" in refused("recover", *data, *teacher)
    assert command("recover", *data, *teacher, "--method", "random", "--images-per-class", 1) == 0


# ---- sre2l from images of another method ---------------------------------------------------------


def started(toy, output, start, *more):
    data = ["--dataset", "toy", "--root", toy, "--teacher", toy / "teacher/checkpoint.pt", "--candidates", 6]
    return [
        "recover",
        *data,
        "--output",
        output,
        *TOY["recover"],
        "--start",
        start,
        "--crops",
        2,
        "--stitch",
        1,
        *more,
    ]


def manifest_of(folder):
    return storage.read_sealed(folder / "manifest.json", "manifest")


@pytest.mark.parametrize("start", ["random", "rded"])
def test_a_recovery_starts_from_the_very_images_of_the_method(start, toy, tmp_path):
    still = ["--iterations", 1, "--step-size", 1e-9]
    assert command(*started(toy, tmp_path / "images", start, *still)) == 0
    assert command(*started(toy, tmp_path / "method", start, "--method", start)) == 0
    found, expected = (image_folder.load_distilled(tmp_path / name) for name in ("images", "method"))
    assert torch.equal(found.pixels, expected.pixels)
    # Each class's training images are told once, with its first image.
    told = manifest_of(tmp_path / "images")["looked_at"]
    of_method = manifest_of(tmp_path / "method")["looked_at"]
    assert sorted(index for part in told.values() for index in part) == sorted(
        index for part in of_method.values() for index in part
    )
    assert command(*started(toy, tmp_path / "noise", "noise", *still)) == 0
    assert not torch.equal(image_folder.load_distilled(tmp_path / "noise").pixels, expected.pixels)


def test_it_moves_away_from_them_goes_on_after_a_stop_and_is_other_work(toy, tmp_path, refused, capsys):
    assert command(*started(toy, tmp_path / "images", "rded")) == 0
    assert command(*started(toy, tmp_path / "method", "rded", "--method", "rded")) == 0
    whole = image_folder.load_distilled(tmp_path / "images")
    assert not torch.equal(whole.pixels, image_folder.load_distilled(tmp_path / "method").pixels)
    manifest = manifest_of(tmp_path / "images")
    assert manifest["data"] and manifest["settings"]["start"] == "rded"
    (tmp_path / "images/dog/dog_0.png").unlink()
    assert command(*started(toy, tmp_path / "images", "rded")) == 0
    assert image_folder.load_distilled(tmp_path / "images").fingerprint == whole.fingerprint
    assert manifest_of(tmp_path / "images") == manifest
    assert "other start;" in refused(*started(toy, tmp_path / "images", "random"))
    assert "other crops;" in refused(*started(toy, tmp_path / "images", "rded", "--crops", 1))
    assert "other data, start;" in refused(*started(toy, tmp_path / "images", "noise"))


def test_settings_of_rded_count_for_nothing_in_a_recovery_from_noise(toy, tmp_path, capsys):
    assert command(*started(toy, tmp_path / "images", "noise")) == 0
    capsys.readouterr()
    assert command(*started(toy, tmp_path / "images", "noise", "--candidates", 3)) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_start_that_there_is_not_is_named(toy, tmp_path, refused):
    assert "--start" in refused(*started(toy, tmp_path / "x", "sre2l"))
    nowhere = ["--root", tmp_path / "nowhere"]
    assert "no data set 'toy'" in refused(*started(toy, tmp_path / "x", "rded", *nowhere))
    too_many = ["--images-per-class", 4, "--stitch", 2]
    assert "crops are needed" in refused(*started(toy, tmp_path / "x", "rded", *too_many))


def test_settings_of_another_method_are_told_and_not_reported(toy, tmp_path, capsys):
    """The record keeps them, since they were asked for."""
    assert command(*words(toy, tmp_path / "images", "--cda", "--start", "rded", "--iterations", 3)) == 0
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "not read" in each]
    assert line == "note: --start, --iterations, --cda: not read by image method random"
    settings = records.read(tmp_path / "images/log.json")["recover"]["settings"]
    read = earlier.read_by_stage("recover", settings)
    assert settings["cda"] and not {"cda", "start", "iterations", "r_bn"} & set(read)
    assert {"method", "images_per_class", "precision"} <= set(read)

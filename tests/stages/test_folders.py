"""Folders of distilled images and of soft labels: whose files they are, and what is not written into them."""

import dataclasses
import io
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TOY, command, write_folder

from guard import ending, recipes, settings
from guard.distilled import image_folder
from guard.errors import UserError
from guard.networks import checkpoint
from guard.run import records, storage
from guard.run.stage import differences


def recover(toy, output, *more, teacher=None):
    teacher = teacher or toy / "teacher/checkpoint.pt"
    return ["recover", "--teacher", teacher, "--output", output, *TOY["recover"], *more]


def relabel(toy, output, *more, images=None, teacher=None):
    made_of = ["--teacher", teacher or toy / "teacher/checkpoint.pt", "--distilled", images or toy / "images"]
    return ["relabel", *made_of, "--output", output, *TOY["relabel"], *more]


def spoiled_teacher(toy, path, change):
    """A copy of the toy teacher whose last layer `change` has changed in place."""
    made = checkpoint.load(toy / "teacher/checkpoint.pt", "teacher")
    *_, bias = (name for name in made.state if name.endswith("bias"))
    change(made.state[bias.replace("bias", "weight")], made.state[bias])
    made.save(path)
    return path


# ---- whose files they are ------------------------------------------------------------------------


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_labels_that_no_manifest_speaks_of_are_not_removed(force, toy, tmp_path, refused):
    labels = tmp_path / "labels"
    shutil.copytree(toy / "labels", labels)
    (labels / "manifest.json").unlink()
    before = sorted(labels.iterdir())
    assert "epoch_0000.npy; remove them, or choose another" in refused(*relabel(toy, labels, *force))
    assert sorted(labels.iterdir()) == before


@pytest.mark.parametrize("contents", ['{"mine": true}', "[1, 2]", '{"format": "guard-labels-1"}'])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_manifest_of_something_else_keeps_what_lies_beside_it(contents, force, toy, tmp_path, refused):
    write_folder(tmp_path, name="theirs", splits=["."], size=16)
    theirs = tmp_path / "theirs"
    (theirs / "manifest.json").write_text(contents)
    before = sorted(theirs.rglob("*"))
    said = "is no manifest of images of this project; choose another folder, or move it away"
    assert said in refused(*recover(toy, theirs, *force))
    assert sorted(theirs.rglob("*")) == before and (theirs / "manifest.json").read_text() == contents
    assert said in refused(*relabel(toy, tmp_path / "labels", *force, images=theirs))
    (theirs / "manifest.json").rename(tmp_path / "theirs.json")
    assert len(image_folder.load_distilled(theirs)) == 12


@pytest.mark.parametrize("output", ["images", "images/labels"])
def test_labels_lie_outside_the_folder_of_images(output, toy, tmp_path, refused):
    shutil.copytree(toy / "images", tmp_path / "images")
    before = sorted((tmp_path / "images").rglob("*"))
    said = refused(*relabel(toy, tmp_path / output, "--force", images=tmp_path / "images"))
    assert f"{tmp_path / output} is in the folder of the images" in said
    assert sorted((tmp_path / "images").rglob("*")) == before


@pytest.mark.parametrize("output", ["images", "images/new"])
def test_a_student_lies_outside_the_folder_of_images(output, toy, tmp_path, refused):
    shutil.copytree(toy / "images", tmp_path / "images")
    before = sorted((tmp_path / "images").rglob("*"))
    words = ["--dataset", "toy", "--root", toy, "--labels", "hard", "--distilled", tmp_path / "images"]
    said = refused("train", *words, "--output", tmp_path / output, *TOY["train"])
    assert f"{tmp_path / output} is in the folder of the images" in said
    assert sorted((tmp_path / "images").rglob("*")) == before


def test_what_the_system_refuses_is_one_line(capsys):
    """As a folder that may not be entered, or output to a full disk."""

    def refused(*told):
        raise PermissionError(13, "Permission denied", *told)

    for told, line in (
        (("/home/other",), "error: /home/other: Permission denied; "),
        ((), "error: Permission "),
    ):
        with pytest.raises(SystemExit) as ended:
            ending.run(refused, *told)
        assert ended.value.code == 2 and capsys.readouterr().err.startswith(line)
    with pytest.raises(OSError, match="no number"):
        ending.run(lambda: (_ for _ in ()).throw(OSError("no number")))


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_the_caller_closed_is_written_to_nowhere(closed, toy, tmp_path):
    words = " ".join(map(str, [sys.executable, "-m", *recover(toy, tmp_path / "images")]))
    done = subprocess.run(f"{words} {closed}", shell=True, cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == 0 and (tmp_path / "images" / "manifest.json").is_file()


def test_labels_of_another_teacher_than_the_images_are_told(toy, tmp_path, capsys):
    images = shutil.copytree(toy / "images", tmp_path / "images")
    assert command(*relabel(toy, tmp_path / "labels", images=images)) == 0
    assert "of another teacher" not in capsys.readouterr().err
    manifest = storage.read_sealed(images / "manifest.json", "manifest")
    storage.write_sealed({**manifest, "teacher": "another"}, images / "manifest.json")
    assert command(*relabel(toy, tmp_path / "others", images=images)) == 0
    assert f"the images in {images} are of another teacher than these labels" in capsys.readouterr().err


def test_the_record_says_which_images_it_is_of(toy):
    told = records.read(toy / "images" / "log.json")["recover"]["fingerprint"]
    assert told == image_folder.load_distilled(toy / "images").fingerprint


def test_what_mends_a_folder_of_images_is_what_it_says(toy, tmp_path, refused):
    images = tmp_path / "images"
    shutil.copytree(toy / "images", images)
    whole = image_folder.load_distilled(images).fingerprint
    (images / "cat/more.png").write_bytes((images / "cat/cat_0.png").read_bytes())
    said = refused(*relabel(toy, tmp_path / "labels", images=images))
    assert "cat/more.png is not in the manifest beside the images; remove it" in said
    (images / "cat/more.png").unlink()
    (images / "dog/dog_1.png").unlink()
    said = refused(*relabel(toy, tmp_path / "labels", images=images))
    assert "dog/dog_1.png is missing; run python -m recover again" in said
    assert command(*recover(toy, images)) == 0
    (images / "dog/dog_1.png").write_bytes((images / "cat/cat_0.png").read_bytes())
    said = refused(*relabel(toy, tmp_path / "labels", images=images))
    assert "not what the manifest beside it says; remove it and run python -m recover again" in said
    (images / "dog/dog_1.png").unlink()
    assert command(*recover(toy, images)) == 0
    assert image_folder.load_distilled(images).fingerprint == whole


def test_images_of_which_none_is_finished_are_not_complete(tmp_path):
    """Not: that there are no class folders, or that one of them is empty."""
    ledger = image_folder.ledger(tmp_path)
    ledger.start_over({"teacher": "t"})
    with pytest.raises(UserError, match="not complete; run python -m recover again"):
        image_folder.load_distilled(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="not complete; run python -m recover again"):
        image_folder.load_distilled(tmp_path)


def test_images_of_a_method_that_there_is_no_more_are_made_with_another(toy, tmp_path, refused):
    images = tmp_path / "images"
    shutil.copytree(toy / "images", images)
    manifest = storage.read_sealed(images / "manifest.json", "manifest")
    manifest["settings"]["method"] = "later"
    storage.write_sealed(manifest, images / "manifest.json")
    assert "made with other method;" in refused(*recover(toy, images))


# ---- what is not written -------------------------------------------------------------------------


def test_images_that_are_not_numbers_are_not_written(toy, tmp_path, refused):
    said = refused(*recover(toy, tmp_path / "images", "--r-bn", "1e300"))
    assert "what sre2l makes is not a number; lower --step-size or --r-bn" in said
    assert not list(tmp_path.rglob("*.png"))
    not_a_number = spoiled_teacher(toy, tmp_path / "t.pt", lambda weight, bias: bias.fill_(float("nan")))
    for words in ([], ["--dataset", "toy", "--root", toy, "--method", "rded", "--stitch", 1]):
        out = tmp_path / f"of the teacher {len(words)}"
        assert "is not a number" in refused(*recover(toy, out, *words, teacher=not_a_number))
        assert not list(out.rglob("*.png"))


@pytest.mark.parametrize("more", [[], ["--label-format", "int8"], ["--top-classes", 1]])
def test_logits_that_16_bits_do_not_hold_are_not_stored(more, toy, tmp_path, refused):
    large = spoiled_teacher(toy, tmp_path / "t.pt", lambda weight, bias: (weight.mul_(1e8), bias.mul_(1e8)))
    said = refused(*relabel(toy, tmp_path / "labels", *more, teacher=large))
    assert "the teacher's logits cannot be stored in 16 bits" in said
    assert not list(tmp_path.rglob("epoch_*.npy"))


def test_more_tiles_than_pixels_are_refused_before_any_work(toy, tmp_path, refused):
    rded = ["--dataset", "toy", "--root", toy, "--method", "rded", "--stitch", 17]
    assert "--stitch 17 is more than the 16 pixels" in refused(*recover(toy, tmp_path / "images", *rded))
    assert not list(tmp_path.rglob("*.json"))


def test_a_roll_has_a_limit(toy, tmp_path, capsys):
    assert command(*recover(toy, tmp_path / "images", "--roll", "99999999999999999999")) == 2
    assert "--roll" in capsys.readouterr().err and not list(tmp_path.iterdir())


# ---- what is told --------------------------------------------------------------------------------


def test_what_is_switched_off_is_told_and_makes_no_other_work(toy, tmp_path, capsys):
    crops = ["--no-crop", "--crop-scale", 0.9, "--cda-milestone", 0.1, "--cda-schedule", "step"]
    assert command(*recover(toy, tmp_path / "images", *crops)) == 0
    told = "--crop-scale, --cda-schedule, --cda-milestone: not read by image method sre2l"
    assert told in capsys.readouterr().err
    assert command(*recover(toy, tmp_path / "images", "--no-crop")) == 0
    assert "is finished" in capsys.readouterr().out
    plain = ["--augmentation", "none", "--mix", "none"]
    assert command(*relabel(toy, tmp_path / "labels", *plain, "--crop-scale", 0.5, "--mix-alpha", 3)) == 0
    assert "--crop-scale, --mix-alpha: not read in making these labels" in capsys.readouterr().err
    assert command(*relabel(toy, tmp_path / "labels", *plain)) == 0
    assert "is finished" in capsys.readouterr().out


def test_defaults_of_another_family_are_told(toy, tmp_path, capsys):
    assert command(*relabel(toy, tmp_path / "one", "--dataset", "digits")) == 0
    told = "note: --dataset digits: the defaults are its, not those of the teacher's toy"
    assert told in capsys.readouterr().err
    for number, dataset in enumerate(("toy", "cats")):  # of the same family
        assert command(*relabel(toy, tmp_path / str(number), "--dataset", dataset)) == 0
        assert "--dataset" not in capsys.readouterr().err
    of_digits = tmp_path / "digits.pt"
    made = checkpoint.load(toy / "teacher/checkpoint.pt", "teacher")
    dataclasses.replace(made, dataset="digits").save(of_digits)
    assert command(*relabel(toy, tmp_path / "typo", "--dataset", "digit", teacher=of_digits)) == 0
    told = "note: --dataset digit: the defaults are those of any folder of images, not those of the teacher's"
    assert told in capsys.readouterr().err


def test_the_manifest_says_whose_training_images_were_looked_at(toy, tmp_path):
    write_folder(tmp_path, name="others", seed=5)
    more = ["--dataset", "others", "--root", tmp_path, "--method", "random"]
    assert command(*recover(toy, tmp_path / "images", *more)) == 0
    manifest = storage.read_sealed(tmp_path / "images/manifest.json", "manifest")
    assert manifest["dataset"] == "others"
    assert storage.read_sealed(toy / "images/manifest.json", "manifest")["dataset"] == "toy"


def test_settings_that_make_no_other_network_do_not_count():
    for stage, name, values in (
        ("pretrain", "curvature_images", (0, 256)),
        ("train", "reuse_labels", (False, True)),
    ):
        one, other = (
            {**settings.as_dict(recipes.resolve("digits", stage, {})), name: value} for value in values
        )
        assert one != other and not differences(stage, one, other)
        assert differences(stage, one, {**one, "epochs": 3}) == ["epochs"]


def test_a_single_image_for_batch_norm_ends_in_a_line(capsys):
    network = torch.nn.BatchNorm2d(3).train()
    with pytest.raises(SystemExit) as end:
        ending.run(network, torch.zeros(1, 3, 1, 1))
    assert end.value.code == 2 and "a single image" in capsys.readouterr().err
    with pytest.raises(ValueError, match="other"):
        ending.run(lambda: (_ for _ in ()).throw(ValueError("other")))


def test_what_a_terminal_cannot_show_is_printed_all_the_same(monkeypatch):
    """As "±" and names of any bytes where output is ASCII."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    ending.run(print, "2 \u00b1 1, run-\udcff", flush=True)
    assert printed.buffer.getvalue() == b"2 \\xb1 1, run-\\udcff\n"


def test_a_worker_that_is_killed_ends_in_a_line(tmp_path):
    """As by the system, where memory runs out."""
    root = write_folder(tmp_path, size=24, count=40)
    script = f"""
import os, signal, torch
from guard import ending
from guard.data import find, images, loading
source = find.find("toy", {str(root.parent)!r}, "train")
held = images.Streamed(source.files, torch.tensor(source.labels), source.classes)
class Killing(loading.ValidationBatches):
    def __getitem__(self, number):
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(number)
epoch = Killing(held, batch_size=2, size=16)
ending.run(lambda: [*loading.batches(epoch, 2, torch.device("cpu"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 2, done.stderr
    assert (
        done.stderr.startswith("error: a process that decodes images was ended")
        and "--workers" in done.stderr
    )
    assert done.stderr.count("\n") == 1

"""One file to share: what is in it, what reads it, that nothing is lost, and what is refused."""

import io
import re
import shutil

import numpy
import pytest
import torch
from conftest import ROOT, TOY, command, toy_student
from spoiling import Malicious, cut

import guard
from guard import recipes
from guard.data import augment
from guard.distilled import image_folder, shared_set, tensor_set
from guard.distilled.label_store import LabelStore
from guard.errors import UserError
from guard.networks import checkpoint
from guard.run import records, storage

PLAIN = (str, int, float, bool, type(None))


@pytest.fixture
def file(toy, tmp_path):
    """The toy chain as one file."""
    assert command("guard.export", toy, "--output", tmp_path / "set.pt") == 0
    return tmp_path / "set.pt"


@pytest.fixture
def run(toy, tmp_path):
    """A copy of the toy chain that a test may change."""
    return shutil.copytree(toy, tmp_path / "run")


def loaded(path):
    return torch.load(path, weights_only=True)


def changed(path, **more):
    """The file, with other contents of these names."""
    torch.save({**loaded(path), **more}, path)
    return path


def values_in(held):
    """All values in nested dicts and lists."""
    if isinstance(held, (dict, list)):
        for each in held.values() if isinstance(held, dict) else held:
            yield from values_in(each)
    else:
        yield held


# ---- nothing is lost -----------------------------------------------------------------------------


def test_images_and_labels_are_those_of_the_folder(toy, file):
    ours, folder = guard.load_distilled(file), guard.load_distilled(toy / "images")
    assert torch.equal(ours.packed.pixels, folder.packed.pixels) and ours.packed.pixels.dtype == torch.uint8
    assert torch.equal(ours.packed.labels, folder.packed.labels)
    assert (ours.classes, ours.fingerprint) == (folder.classes, folder.fingerprint)
    assert torch.equal(ours[3][0], folder[3][0]) and ours[3][1] == folder[3][1]


@pytest.mark.parametrize("recipe", [recipes.IMAGENET, *recipes.RECIPES.values()])
def test_normalization_is_undone_without_a_loss(recipe):
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    normalized = augment.normalized(augment.as_float(pixels), recipe.mean, recipe.std)
    assert normalized.dtype == torch.float32
    undone = augment.unnormalized(normalized, recipe.mean, recipe.std).clamp(0, 1)
    assert torch.equal(augment.as_bytes(undone), pixels)


@pytest.mark.parametrize(
    "flags", [[], ["--label-format", "int8", "--top-classes", 1], ["--input-gradients", "signs"]]
)
def test_soft_labels_are_unpacked_bit_for_bit(flags, toy, run, tmp_path):
    made = ["--teacher", toy / "teacher/checkpoint.pt", "--distilled", run / "images"]
    words = ["--output", run / "labels", *TOY["relabel"], *flags]
    assert command("relabel", *made, *words, "--force") == 0
    assert command("guard.export", run, "--output", tmp_path / "set.pt") == 0
    guard.unpack_labels(tmp_path / "set.pt", tmp_path / "unpacked")
    names = ["epoch_0000.npy", "epoch_0001.npy", "manifest.json"]
    assert sorted(path.name for path in (tmp_path / "unpacked").iterdir()) == names
    for name in names:
        assert (tmp_path / "unpacked" / name).read_bytes() == (run / "labels" / name).read_bytes()
    ours, folder = guard.load_distilled(tmp_path / "set.pt"), guard.load_distilled(run / "images")
    for epoch in (0, 1):
        replayed = list(ours.labelled(tmp_path / "unpacked", epoch))
        stored = list(folder.labelled(run / "labels", epoch))
        assert len(replayed) == len(stored)
        for one, other in zip(replayed, stored):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_the_student_learns_from_the_file_as_from_the_folder(toy, file, tmp_path):
    """With the soft labels that were unpacked from it, and with its images labelled anew."""
    guard.unpack_labels(file, tmp_path / "labels")
    given = {"folder": (toy / "images", toy / "labels"), "file": (file, tmp_path / "labels")}
    for name, (images, labels) in given.items():
        words = ["--distilled", images, "--labels", labels, "--output", tmp_path / name]
        assert command(*toy_student(toy, *words)) == 0
    one, other = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in given)
    assert one.fingerprint == other.fingerprint
    teacher = ["--teacher", toy / "teacher/checkpoint.pt", *TOY["relabel"]]
    assert command("relabel", "--distilled", file, "--output", tmp_path / "anew", *teacher) == 0
    assert (tmp_path / "anew/epoch_0000.npy").read_bytes() == (toy / "labels/epoch_0000.npy").read_bytes()


def test_numpy_alone_reads_an_epoch(toy, file):
    store, images = LabelStore(toy / "labels"), image_folder.load_distilled(toy / "images")
    rows = store.read(1, store.open(images.fingerprint, images.classes), images)
    held = loaded(file)["soft_labels"]["epochs"][1]
    assert numpy.array_equal(numpy.load(io.BytesIO(held.numpy().tobytes())), rows)


# ---- what is in it -------------------------------------------------------------------------------


def test_it_holds_plain_values_that_say_where_it_comes_from(toy, file):
    held = loaded(file)
    assert all(type(value) in (*PLAIN, torch.Tensor) for value in values_in(held))
    ((images, labels),) = held["data"]
    assert images.shape == (4, 3, 16, 16) and images.dtype == torch.float32
    assert labels.tolist() == [0, 0, 1, 1] and labels.dtype == torch.int64
    assert (held["classes"], held["image_size"], held["dataset"]) == (["cat", "dog"], 16, "toy")
    assert (tuple(held["mean"]), tuple(held["std"])) == (recipes.IMAGENET.mean, recipes.IMAGENET.std)
    teacher = guard.library.checkpoint.load(toy / "teacher/checkpoint.pt").fingerprint
    prints = held["fingerprints"]
    assert prints["teacher"] == prints["teacher of labels"] == teacher
    assert prints["images"] == image_folder.load_distilled(toy / "images").fingerprint
    assert prints["labels"] == storage.read_json(toy / "labels/manifest.json", "manifest")[storage.SEAL]
    assert held["settings"]["recover"]["iterations"] == 3 and held["settings"]["relabel"]["epochs"] == 2
    assert "commit" in held and "command" in held and "toy" in held["licence"]


def test_the_student_on_these_images_is_told_and_one_on_others_is_not(toy, run, tmp_path):
    images = image_folder.load_distilled(toy / "images").fingerprint
    for fingerprint in (images, "another"):
        settings = {"images": fingerprint, "temperature": 20.0}
        records.update(run / "log.json", "train", {"settings": settings})
        found = shared_set.of_experiment(run)["settings"].get("train")
        assert found == (settings if fingerprint == images else None)


def test_the_licence_is_what_was_given(toy, tmp_path):
    words = ["--output", tmp_path / "set.pt", "--licence", "CC BY 4.0"]
    assert command("guard.export", toy, *words) == 0
    assert loaded(tmp_path / "set.pt")["licence"] == "CC BY 4.0"


@pytest.mark.parametrize("flags", [["--images-only"], []])
def test_images_alone_are_exported_and_it_is_said(flags, run, tmp_path, capsys):
    if not flags:
        shutil.rmtree(run / "labels")
    capsys.readouterr()
    assert command("guard.export", run, "--output", tmp_path / "set.pt", *flags) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "4 images of 16x16 pixels in 2 classes, without soft labels" in line
    assert ("none in" in line) == (not flags)
    held = loaded(tmp_path / "set.pt")
    assert held["soft_labels"] is None and held["fingerprints"]["labels"] is None
    assert len(guard.load_distilled(tmp_path / "set.pt")) == 4
    with pytest.raises(UserError, match="no soft labels"):
        guard.unpack_labels(tmp_path / "set.pt", tmp_path / "unpacked")


def test_the_judge_trains_from_it(toy, file, tmp_path):
    words = ["--dataset", "toy", "--root", toy, "--labels", "hard", "--image-size", 16, "--epochs", 1]
    made = ["--distilled", file, "--output", tmp_path / "student"]
    assert command("train", *words, *made, *TOY["train"]) == 0
    assert "evaluate student" in records.read(tmp_path / "student/log.json")


def test_the_judge_goes_by_what_the_file_says_of_itself(toy, file, tmp_path, refused):
    """Its normalization, and its classes, whose order is that of the labels."""
    found = tensor_set.read(file, ["one", "other"], mean=[0.1] * 3, std=[0.9] * 3)
    assert torch.equal(found.pixels, image_folder.load_distilled(toy / "images").pixels)
    turned = tensor_set.read(file, found.classes[::-1], mean=[0.1] * 3, std=[0.9] * 3)
    assert turned.classes == found.classes[::-1] and torch.equal(turned.labels, 1 - found.labels)
    classes = loaded(file)["classes"]
    shutil.copytree(toy / "toy", root := tmp_path / "root" / "toy")
    for split in ("train", "val"):
        (root / split / classes[0]).rename(root / split / "zebra")
    words = ["--dataset", "toy", "--root", tmp_path / "root", "--labels", "hard", "--image-size", 16]
    line = refused("train", *words, "--distilled", file, "--output", tmp_path / "new", *TOY["train"])
    assert "classes" in line and "zebra" in line and not (tmp_path / "new" / "checkpoint.pt").exists()


# ---- what is refused -----------------------------------------------------------------------------


def unfinished(folder):
    storage.write_sealed(
        {**storage.read_sealed(folder / "manifest.json", "manifest"), "complete": False},
        folder / "manifest.json",
    )


def other_images(run):
    manifest = storage.read_sealed(run / "labels/manifest.json", "manifest")
    storage.write_sealed({**manifest, "images": "another"}, run / "labels/manifest.json")


# What is the matter -> (what is done to the run, words of the line).
BAD_RUNS = {
    "no run": (shutil.rmtree, "no experiment at"),
    "no manifest": (lambda run: (run / "images/manifest.json").unlink(), "no manifest of images"),
    "unfinished images": (lambda run: unfinished(run / "images"), "the images in"),
    "damaged image": (lambda run: cut(run / "images/cat/cat_0.png"), "cat_0.png"),
    "unfinished labels": (lambda run: unfinished(run / "labels"), "the soft labels in"),
    "labels of other images": (other_images, "made for other images"),
    "damaged labels": (lambda run: cut(run / "labels/epoch_0001.npy"), "epoch_0001.npy"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_what_cannot_be_exported_is_named_in_one_line(case, run, tmp_path, refused):
    spoil, expected = BAD_RUNS[case]
    spoil(run)
    line = refused("guard.export", run, "--output", tmp_path / "set.pt")
    assert expected in line and "; " in line, line
    assert not list(tmp_path.glob("*.pt")) and not list(tmp_path.glob(".*"))


def test_a_file_is_only_replaced_by_force(toy, file, refused):
    before = file.read_bytes()
    assert "is there already" in refused("guard.export", toy, "--output", file)
    assert file.read_bytes() == before
    assert command("guard.export", toy, "--output", file, "--images-only", "--force") == 0
    assert loaded(file)["soft_labels"] is None


def test_another_suffix_is_refused(toy, tmp_path, refused):
    assert "does not end in .pt" in refused("guard.export", toy, "--output", tmp_path / "set.zip")
    assert not list(tmp_path.iterdir())


def other_pixels(path):
    ((images, labels),) = loaded(path)["data"]
    return changed(path, data=[[images.flip(0), labels]])


BAD_FILES = {
    "of others": (lambda path: torch.save({"data": []}, path), "not made by python -m guard.export"),
    "half of it": (cut, "truncated"),
    "code": (lambda path: torch.save({"format": Malicious()}, path), "not loaded"),
    "other pixels": (other_pixels, "do not match their fingerprint"),
    "no pixels": (lambda path: changed(path, data=None), "do not match"),
    "numbers for images": (lambda path: changed(path, data=[[1, 2]]), "do not match"),
    "no mean": (lambda path: changed(path, mean=[0.5]), "do not match"),
    "six numbers": (lambda path: changed(path, mean=[0.5] * 2, std=[0.5] * 4), "do not match"),
    "other classes": (lambda path: changed(path, classes=["cat", "cow"]), "do not match"),
    "too few classes": (lambda path: changed(path, classes=["cat"]), "do not match"),
    "no fingerprints": (lambda path: changed(path, fingerprints=None), "do not match"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_told(case, file):
    spoil, expected = BAD_FILES[case]
    spoil(file)
    with pytest.raises(UserError, match=expected):
        guard.load_distilled(file)


def bad_labels(**more):
    return lambda path: changed(path, soft_labels={**loaded(path)["soft_labels"], **more})


def less_of_them(path):
    return bad_labels(epochs=loaded(path)["soft_labels"]["epochs"][:1])(path)


def another_bit(path):
    first, second = loaded(path)["soft_labels"]["epochs"]
    return bad_labels(epochs=[first, second ^ 1])(path)


def of_others(path):
    manifest = {**loaded(path)["soft_labels"]["manifest"], "images": "another"}
    manifest.pop(storage.SEAL)
    return bad_labels(manifest=storage.sealed(manifest))(path)


BAD_LABELS = {
    "numbers": (lambda path: changed(path, soft_labels=3), "not those of its images"),
    "no manifest": (bad_labels(manifest={}), "not those of its images"),
    "manifest of tensors": (bad_labels(manifest={"a": torch.zeros(1)}), "not those of its images"),
    "epochs of numbers": (bad_labels(epochs=[1, 2]), "not those of its images"),
    "other images'": (of_others, "not those of its images"),
    "an epoch less": (less_of_them, "not those that it lists"),
    "another bit": (another_bit, "not those that it lists"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_soft_labels_are_told(case, file, tmp_path):
    spoil, expected = BAD_LABELS[case]
    spoil(file)
    with pytest.raises(UserError, match=expected):
        guard.unpack_labels(file, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_labels_are_unpacked_into_a_new_folder_alone(toy, file):
    before = {path: path.read_bytes() for path in (toy / "labels").iterdir()}
    with pytest.raises(UserError, match="not empty"):
        guard.unpack_labels(file, toy / "labels")
    assert before == {path: path.read_bytes() for path in (toy / "labels").iterdir()}


def test_the_page_runs_as_it_stands(toy, file, monkeypatch):
    page = (ROOT / "docs/usage.md").read_text()
    (code,) = re.findall(r"```python\n(.*?unpack_labels.*?)```", page, re.DOTALL)
    monkeypatch.chdir(file.parent)
    names = {}
    exec(code, names)  # noqa: S102 - this is the test
    views, logits = next(names["batches"])
    assert views.shape[1:] == (3, 16, 16) and logits.shape[1] == 2


def test_files_that_others_wrote_are_told_whatever_is_beside_their_images(toy, tmp_path, refused):
    """As the accuracies that DC stores, numbers of numpy."""
    torch.save(
        {"data": [[torch.rand(2, 3, 16, 16), torch.tensor([0, 1])]], "accs": [numpy.float64(1)]},
        tmp_path / "dc.pt",
    )
    words = [
        "--teacher",
        toy / "teacher/checkpoint.pt",
        "--distilled",
        tmp_path / "dc.pt",
        "--output",
        tmp_path / "l",
    ]
    assert "was not made by python -m guard.export" in refused("relabel", *words)

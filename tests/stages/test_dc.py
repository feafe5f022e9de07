"""Image method dc as a stage: same bits, also after a stop; the teacher's regularizer; other starts."""

import pytest
import torch
from conftest import FP32, command

from guard import registry
from guard.distilled import image_folder
from guard.run import storage, tensor_files, unfinished
from recover import dc

TEACHER = ["--model", "narrow", "--image-size", 16, "--epochs", 1, "--batch-size", 4, "--workers", 0, *FP32]


@pytest.fixture(scope="module")
def teachers(toy, tmp_path_factory):
    """Checkpoints of a convnet-in of width 8: plain, another plain one, and one with curvature."""
    folder, patch = tmp_path_factory.mktemp("teachers"), pytest.MonkeyPatch()
    row = registry.MODELS["convnet-in"]
    patch.setitem(registry.MODELS, "narrow", row._replace(settings={**row.settings, "width": 8}))
    given = {"plain": [], "other": ["--seed", 7], "curved": ["--curvature", "--lambda", 1000]}
    for name, more in given.items():
        words = ["--dataset", "toy", "--root", toy, "--curvature-images", 0, "--output", folder / name]
        assert command("pretrain", *words, *TEACHER, *more) == 0
    yield {name: folder / name / "checkpoint.pt" for name in given}
    patch.undo()


@pytest.fixture
def words(toy, teachers, tmp_path):
    """words(folder, teacher, *more): of the stage's command."""

    def make(folder, *more, teacher="plain"):
        data = ["--dataset", "toy", "--root", toy, "--teacher", teachers[teacher], "--method", "dc", *FP32]
        sizes = ["--images-per-class", 2, "--iterations", 3, "--network-epochs", 2, "--real-batch", 4]
        return ["recover", *data, "--output", tmp_path / folder, *sizes, *more]

    return make


def images(folder):
    return image_folder.load_distilled(folder)


def test_same_seed_same_bits_and_what_counts(words, tmp_path, refused, capsys):
    assert command(*words("one")) == command(*words("two")) == command(*words("three", "--seed", 1)) == 0
    one, two, three = (images(tmp_path / name) for name in ("one", "two", "three"))
    assert one.fingerprint == two.fingerprint != three.fingerprint
    assert one.pixels.shape == (4, 3, 16, 16) and one.labels.tolist() == [0, 0, 1, 1]
    manifest = storage.read_sealed(tmp_path / "one/manifest.json", "manifest")
    assert len(manifest["losses"]["0"]) == 4 and manifest["data"]
    capsys.readouterr()
    assert command(*words("one", "--roll", 1, "--crops", 9)) == 0  # which other methods read
    assert "is finished" in capsys.readouterr().out
    assert "other image_rate;" in refused(*words("one", "--image-rate", 0.2))
    assert "other iterations;" in refused(*words("one", "--iterations", 4))


def test_of_the_teacher_the_regularizer_counts_and_no_weight(words, tmp_path):
    for name in ("plain", "other", "curved"):
        assert command(*words(name, teacher=name)) == 0
    plain, other, curved = (images(tmp_path / name).pixels for name in ("plain", "other", "curved"))
    assert torch.equal(plain, other) and not torch.equal(plain, curved)


def stop_after(monkeypatch, networks):
    """The work is killed when `networks` of them are done; each leaves its state."""
    one_network = dc.on_a_fresh_network

    def stopping(held, number, *given):
        if number == networks:
            raise KeyboardInterrupt
        return one_network(held, number, *given)

    monkeypatch.setattr(dc, "on_a_fresh_network", stopping)
    monkeypatch.setattr(unfinished.Unfinished.__init__, "__defaults__", (0,))


def test_after_a_stop_it_goes_on_to_the_same_bits(words, tmp_path, monkeypatch, refused):
    assert command(*words("whole")) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert command(*words("stopped")) != 0
    state = tmp_path / "stopped/.part_0.pt"
    assert tensor_files.read(state)["iterations"] == 2
    assert "other network_rate;" in refused(*words("stopped", "--network-rate", 0.5))
    made, one_network = [], dc.on_a_fresh_network
    monkeypatch.setattr(
        dc,
        "on_a_fresh_network",
        lambda held, number, *given: made.append(number) or one_network(held, number, *given),
    )
    assert command(*words("stopped")) == 0
    assert made == [2] and not state.exists()
    assert images(tmp_path / "stopped").fingerprint == images(tmp_path / "whole").fingerprint


def test_a_state_that_is_none_is_named_and_force_begins_anew(words, tmp_path, monkeypatch, refused):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert command(*words("images")) != 0
    state = tmp_path / "images/.part_0.pt"
    tensor_files.save({"iterations": 1}, state)
    assert "no unfinished part, it lacks images" in refused(*words("images"))
    state.write_bytes(b"nothing")
    assert "damaged" in refused(*words("images"))
    assert command(*words("images", "--force")) == 0 and not state.exists()


def test_it_starts_from_training_images_where_asked(words, tmp_path, refused):
    still = ["--image-rate", 1e-9]
    assert command(*words("started", *still, "--start", "random")) == 0
    assert "made with other " in refused(*words("started", *still))
    assert command(*words("random", "--method", "random")) == 0
    assert torch.equal(images(tmp_path / "started").pixels, images(tmp_path / "random").pixels)


def test_a_student_learns_from_them_by_hard_labels(words, toy, teachers, tmp_path):
    assert command(*words("images")) == 0
    data = ["--dataset", "toy", "--root", toy, "--teacher", teachers["plain"], "--labels", "online"]
    small = ["--epochs", 2, "--model", "narrow", "--workers", 0, "--protocol", "quick", *FP32]
    hard = ["--loss", "cross-entropy", "--mix", "none", "--augmentation", "none"]
    made = ["--distilled", tmp_path / "images", "--output", tmp_path / "student"]
    assert command("train", *data, *small, *hard, *made) == 0

"""Soft labels: what the student sees is what the teacher labelled, bit for bit; stores that do not
belong are refused by name.
"""

import copy
import dataclasses
import itertools
import math
import shutil
from types import SimpleNamespace

import numpy
import pytest
import torch
from conftest import TOY, pixel_model

from guard.bench import reference
from guard.data.images import Packed
from guard.distilled import label_store, soft_labels
from guard.errors import UserError
from guard.method import losses
from guard.networks import checkpoint
from guard.recipes import recipe
from guard.run import storage
from guard.run.seeds import generator
from guard.run.stage import Stage
from guard.settings import Train
from train import student

RECIPE = soft_labels.LabelRecipe(
    epochs=3,
    batch_size=4,
    augmentation="resized-crop",
    mix="cutmix",
    mix_alpha=1.0,
    teacher_mode="eval",
    precision="fp32",
    channels_last=False,
    compile=False,
    seed=5,
)


@pytest.fixture
def images():
    pixels = torch.randint(0, 256, (10, 3, 8, 8), generator=generator("images"), dtype=torch.uint8)
    return Packed(pixels, torch.arange(10) % 3, ("a", "b", "c"))


class Watched(torch.nn.Module):
    """A network that remembers every batch of pixels that it saw."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    @property
    def network(self):
        return self.inner.network

    def forward(self, pixels):
        self.seen.append(pixels.clone())
        return self.inner(pixels)


@pytest.mark.parametrize(
    "changes", [{}, {"mix": "mixup", "augmentation": "pad-crop"}, {"mix": "none", "augmentation": "shift"}]
)
def test_the_student_sees_what_the_teacher_labelled(changes, images, network, tmp_path):
    wanted = dataclasses.replace(RECIPE, **changes)
    teacher, learner = Watched(pixel_model(network.float())), Watched(pixel_model(copy.deepcopy(network)))
    store = label_store.LabelStore(tmp_path)
    parts = store.parts(wanted.epochs)
    work = Stage("relabel", tmp_path)
    key = store.key(wanted, "teacher", images.fingerprint, images.classes)
    assert not work.finished_or_begin(store.ledger, key, parts) and work.missing == list(parts)
    for epoch in range(3):
        store.write(epoch, soft_labels.make_epoch(teacher, images, wanted, epoch), wanted, images)
    work.device = torch.device("cpu")
    assert not store.ledger.read()["complete"]
    work.finish(parts)
    again = label_store.LabelStore(tmp_path)
    optimizer = torch.optim.AdamW(learner.parameters(), 0.0)
    step = student.training_step(Train(), learner, optimizer, torch.device("cpu"))
    recipe = again.open(images.fingerprint, images.classes)
    for epoch in range(3):
        rows = again.read(epoch, recipe, images)
        student.epoch_of(
            Train(),
            learner,
            step,
            rows=rows,
            recipe=recipe,
            distilled=images,
            seed_key=(0, epoch),
            device=torch.device("cpu"),
        )
    assert len(teacher.seen) == len(learner.seen) == 9
    assert all(torch.equal(one, other) for one, other in zip(teacher.seen, learner.seen))
    assert not torch.equal(teacher.seen[0], teacher.seen[3])  # another epoch, other views
    assert sorted(rows["image"].tolist()) == list(range(10))
    logits = teacher.inner(teacher.seen[6]).half()
    assert numpy.array_equal(rows["logits"][:4], logits.detach().numpy())


def test_an_epoch_can_be_made_again_alone(images, network):
    teacher = pixel_model(network.float())
    first = [soft_labels.make_epoch(teacher, images, RECIPE, epoch) for epoch in range(3)]
    assert soft_labels.make_epoch(teacher, images, RECIPE, 2).tobytes() == first[2].tobytes()
    other = dataclasses.replace(RECIPE, seed=6)
    assert soft_labels.make_epoch(teacher, images, other, 2).tobytes() != first[2].tobytes()


def test_every_epoch_has_an_order_of_its_own_and_every_batch_views_of_its_own():
    one, other = (soft_labels.draw_epoch(RECIPE, 8, 32, 3, epoch) for epoch in range(2))
    assert one["image"].tolist() != other["image"].tolist()
    boxes = [rows["box"][start : start + 4].tolist() for rows in (one, other) for start in (0, 4)]
    assert all(a != b for a, b in itertools.combinations(boxes, 2))


def test_crops_and_mixes_are_drawn_by_the_recipes_numbers():
    """Shares of Beta(200, 200) are near a half, and crops of at least 0.8 of the area are large."""
    wanted = dataclasses.replace(RECIPE, mix="mixup", mix_alpha=200.0, crop_scale=0.8)
    rows = soft_labels.draw_epoch(wanted, 80, 64, 3, 0)
    assert (abs(rows["share"] - 0.5) < 0.2).all() and len(set(rows["share"].tolist())) == 20
    areas = rows["box"][:, 2].astype(int) * rows["box"][:, 3] / 64**2
    assert areas.min() > 0.75 and len(set(areas.tolist())) > 10


def test_the_same_classes_in_another_order_are_other_classes(images):
    network = SimpleNamespace(classes=("b", "a", "c"), image_size=8)
    with pytest.raises(UserError, match="their order differs"):
        soft_labels.check_classes(network, images, "a folder")


def test_teacher_mode_train_uses_the_batchs_statistics_and_keeps_the_running_ones(images, network):
    teacher = pixel_model(network.float())
    before = {
        name: tensor.clone() for name, tensor in teacher.state_dict().items() if "num_batches" not in name
    }
    wanted = dataclasses.replace(RECIPE, teacher_mode="train", mix="none", augmentation="none")
    rows = soft_labels.make_epoch(teacher, images, wanted, 0)
    assert all(
        torch.equal(teacher.state_dict()[name], tensor) for name, tensor in before.items()
    ) and not any(m.training for m in teacher.modules())
    batch = images.pixels[torch.from_numpy(rows["image"][:4].astype("int64"))].float() / 255
    expected = teacher.train()(batch).half()
    assert numpy.array_equal(rows["logits"][:4], expected.detach().numpy())
    teacher.eval()
    assert not numpy.array_equal(
        rows["logits"],
        soft_labels.make_epoch(teacher, images, dataclasses.replace(wanted, teacher_mode="eval"), 0)[
            "logits"
        ],
    )


def test_student_losses_are_the_formulas():
    one, other = torch.randn(2, 6, 5, generator=generator("logits"), dtype=torch.float64)
    targets = torch.rand(6, 5, generator=generator("targets"), dtype=torch.float64)
    targets /= targets.sum(1, keepdim=True)
    expected = reference.student_loss(other, one, 20.0).item()
    assert losses.kullback_leibler(one, other, targets, 20.0).item() == pytest.approx(expected, rel=1e-12)
    cross_entropy = 0.0
    for logits, shares in zip(one, targets):
        for logit, share in zip(logits, shares):
            cross_entropy += share.item() * (math.log(logits.exp().sum()) - logit.item()) / len(one)
    squares = (
        sum((a - b) ** 2 for a, b in zip(one.flatten().tolist(), other.flatten().tolist())) / one.numel()
    )
    assert losses.hard_cross_entropy(one, other, targets, 20.0).item() == pytest.approx(cross_entropy)
    found = losses.squared_error(one, other, targets, 20.0).item()
    assert found == pytest.approx(squares + 0.025 * cross_entropy)


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "none"])
def test_targets_are_mixed_like_the_pixels(mix, images):
    """Images of one colour for each class: the share of a class is the share of its colour."""
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    pixels = colours[images.labels].view(-1, 3, 1, 1).expand(-1, -1, 16, 16).contiguous()
    coloured = Packed(pixels, images.labels, images.classes)
    settings = dataclasses.replace(recipe("imagenette").relabel, mix=mix, augmentation="none", batch_size=5)
    wanted = soft_labels.label_recipe(settings, coloured, 0)
    rows = soft_labels.draw_epoch(wanted, len(coloured), 16, 3, 0)
    for batch in soft_labels.batches_of(rows, 5):
        shown = soft_labels.look(coloured, batch).mean((2, 3))
        torch.testing.assert_close(soft_labels.targets_of(coloured, batch), shown, rtol=0, atol=1e-6)


def test_online_labels_give_the_same_student_as_the_store(toy, tmp_path):
    from conftest import command

    common = [
        "--dataset",
        "toy",
        "--root",
        toy,
        "--teacher",
        toy / "teacher/checkpoint.pt",
        "--distilled",
        toy / "images",
        "--images",
        2,
        *TOY["train"],
    ]
    assert command("train", *common, "--labels", toy / "labels", "--output", tmp_path / "stored") == 0
    assert (
        command("train", *common, "--labels", "online", "--epochs", 2, "--output", tmp_path / "online") == 0
    )
    stored, online = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("stored", "online"))
    assert stored.fingerprint == online.fingerprint
    assert (
        command(
            "train",
            *common,
            "--labels",
            "online",
            "--epochs",
            2,
            "--mix",
            "none",
            "--output",
            tmp_path / "other",
        )
        == 0
    )
    assert checkpoint.load(tmp_path / "other" / "checkpoint.pt").fingerprint != stored.fingerprint


def spoil_images(chain):
    (chain / "images" / "manifest.json").unlink()  # or the images would be refused before the labels
    path = next((chain / "images").glob("*/*.png"))
    other = next(p for p in sorted((chain / "images").glob("*/*.png")) if p.read_bytes() != path.read_bytes())
    path.write_bytes(other.read_bytes())


def edit_manifest(chain, **changes):
    path = chain / "labels" / "manifest.json"
    storage.write_sealed({**storage.read_sealed(path, "manifest"), **changes}, path)


SPOILED = {
    "other images": (spoil_images, "other images"),
    "other teacher": (lambda chain: edit_manifest(chain, teacher="0" * 64), "other teacher"),
    "other classes": (lambda chain: edit_manifest(chain, classes=["cat", "cow"]), "other classes"),
    "unfinished": (lambda chain: edit_manifest(chain, complete=False), "not complete"),
    "no recipe": (lambda chain: edit_manifest(chain, recipe={}), "no recipe"),
    "manifest of something else": (lambda chain: edit_manifest(chain, format="x"), "manifest.json"),
    "no manifest": (lambda chain: (chain / "labels/manifest.json").unlink(), "manifest.json"),
    "epoch of another size": (
        lambda chain: numpy.save(chain / "labels/epoch_0000.npy", numpy.zeros(3)),
        "epoch_0000.npy",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_labels_that_do_not_belong_are_refused(case, toy, tmp_path, refused):
    spoil, expected = SPOILED[case]
    shutil.copytree(toy, chain := tmp_path / "chain")
    spoil(chain)
    line = refused(
        "train",
        "--dataset",
        "toy",
        "--root",
        chain,
        "--teacher",
        chain / "teacher/checkpoint.pt",
        "--distilled",
        chain / "images",
        "--labels",
        chain / "labels",
        "--output",
        chain / "student",
        *TOY["train"],
    )
    assert expected in line
    assert not (chain / "student" / "checkpoint.pt").exists()


def test_relabel_refuses_a_folder_of_other_labels(toy, tmp_path, refused):
    shutil.copytree(toy, chain := tmp_path / "chain")
    arguments = [
        "--teacher",
        chain / "teacher/checkpoint.pt",
        "--distilled",
        chain / "images",
        "--output",
        chain / "labels",
    ]
    assert "other mix;" in refused("relabel", *arguments, "--epochs", 2, "--mix", "mixup")
    assert "other epochs;" in refused("relabel", *arguments, "--epochs", 3)
    spoil_images(chain)
    assert "other images;" in refused("relabel", *arguments, "--epochs", 2)


def test_batch_size_follows_the_images_per_class(images):
    wanted = recipe("imagenette").relabel
    assert (
        soft_labels.label_recipe(wanted, images, 0).batch_size == 40
    )  # 10 images of 3 classes: 4 of the largest
    assert soft_labels.label_recipe(dataclasses.replace(wanted, batch_size=7), images, 0).batch_size == 7
    many = Packed(torch.zeros(300, 3, 4, 4, dtype=torch.uint8), torch.arange(300) % 3, ("a", "b", "c"))
    assert soft_labels.label_recipe(wanted, many, 0).batch_size == 100


def test_labels_that_mix_with_images_outside_their_batch_are_refused(toy, tmp_path, refused):
    """As somebody who makes the fingerprints fit could send them."""
    import shutil

    from conftest import TOY

    from guard.run import fingerprints, storage

    shutil.copytree(toy / "labels", tmp_path / "labels")
    path = tmp_path / "labels" / "epoch_0000.npy"
    rows = numpy.load(path)
    rows["partner"][0] = 99
    numpy.save(path, rows)
    manifest = storage.read_sealed(tmp_path / "labels" / "manifest.json", "manifest")
    manifest["files"]["epoch_0000.npy"] = fingerprints.of_file(path)
    storage.write_sealed(manifest, tmp_path / "labels" / "manifest.json")
    words = [
        "--teacher",
        toy / "teacher/checkpoint.pt",
        "--distilled",
        toy / "images",
        "--labels",
        tmp_path / "labels",
        "--output",
        tmp_path / "student",
    ]
    assert "not in their batch" in refused("train", "--dataset", "toy", "--root", toy, *words, *TOY["train"])

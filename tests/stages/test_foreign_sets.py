"""Sets that others distilled, in the layouts of their authors, and students on their hard labels."""

import re

import numpy
import pytest
import torch
import torch.nn.functional as F
from conftest import TOY, command
from PIL import Image
from spoiling import Malicious, cut, pickled

import guard
from guard import recipes
from guard.data import augment
from guard.distilled import image_folder, soft_labels, tensor_set
from guard.errors import UserError
from guard.networks import checkpoint
from guard.run import records
from train import inputs

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CLASSES = tuple("abc")
FLAGS = ["--dataset", "digits", "--labels", "hard", *TOY["train"], "--images", 1]


def normalized(pixels, mean=MEAN, std=STD):
    """What their networks see: (N, 3, S, S) pixels by mean and standard deviation of each channel."""
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.fixture
def original():
    """(pixels (6, 3, 16, 16) in [0,1], labels (6,)) of three classes."""
    pixels = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    return pixels, torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture(scope="module")
def digits():
    """(pixels (100, 3, 16, 16) in [0,1], labels (100,)): real digits by class, in place of distilled ones."""
    pixels, labels = guard.load_images("digits", split="train", per_class=10)
    order = labels.argsort(stable=True)
    return pixels[order], labels[order]


def dc(path, images, labels, accuracies=(0.5,), more=()):
    """As DC, DSA, DM and IDM save them: a set for each of their experiments."""
    torch.save({"data": [[images, labels], *more], "accs_all_exps": {"ConvNet": list(accuracies)}}, path)
    return path


def mtt(folder, images, labels, name="best"):
    """As MTT and TESLA save them."""
    torch.save(images, folder / f"images_{name}.pt")
    torch.save(labels, folder / f"labels_{name}.pt")
    return folder / f"images_{name}.pt"


def read(path, clamp=False):
    return tensor_set.read(path, CLASSES, mean=MEAN, std=STD, clamp=clamp)


def check_same(found, original):
    pixels, labels = original
    assert found.pixels.dtype == torch.float32 and found.classes == CLASSES
    assert (found.pixels - pixels).abs().max() < 1e-6 and torch.equal(found.labels, labels)


# ---- layouts -------------------------------------------------------------------------------------


def test_a_file_of_dc_holds_the_pixels_and_labels_that_were_saved(original, tmp_path):
    pixels, labels = original
    others = [normalized(pixels.flip(0)), labels]  # of a second experiment, which is not the one that is read
    check_same(read(dc(tmp_path / "res.pt", normalized(pixels), labels, more=[others])), original)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_accuracies_as_numbers_of_numpy_stand_beside_the_images_of_dc(
    module, original, tmp_path, monkeypatch
):
    pixels, labels = original
    scalar = numpy.float64(0.5).__reduce__()[0]
    monkeypatch.setattr(scalar, "__module__", module)  # where numpy 1 and numpy 2 have it
    path = dc(tmp_path / "res.pt", normalized(pixels), labels, [numpy.float64(0.5), numpy.float32(0.5)])
    assert f"c{module}\nscalar".encode() in path.read_bytes()
    check_same(read(path), original)


@pytest.mark.parametrize("name", ["best", "5000", "my-images"])
def test_two_files_of_mtt_hold_the_pixels_and_labels_that_were_saved(name, original, tmp_path):
    pixels, labels = original
    check_same(read(mtt(tmp_path, normalized(pixels), labels, name)), original)


@pytest.mark.parametrize("save", [lambda folder, *saved: dc(folder / "res.pt", *saved), mtt])
def test_of_soft_labels_the_largest_counts(save, original, tmp_path):
    pixels, labels = original
    soft = 0.4 * F.one_hot(labels, 3) + 0.2
    check_same(read(save(tmp_path, normalized(pixels), soft)), original)


@pytest.mark.parametrize("kind", ["shares", "logits"])
def test_soft_labels_are_kept_where_that_is_asked_for(kind, original, tmp_path):
    """By hand: a view mixed by CutMix has both images' shares in the proportion of their pixels."""
    pixels, labels = original
    shares = 0.4 * F.one_hot(labels, 3) + 0.2
    saved = shares.half() if kind == "shares" else shares.log() + 5
    path = mtt(tmp_path, normalized(pixels), saved)
    found = tensor_set.read(path, CLASSES, mean=MEAN, std=STD, soft_labels=True)
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(found.shares, shares, rtol=0, atol=1e-3)
    assert found.fingerprint != read(path).fingerprint
    assert torch.equal(found.subset([4, 0]).shares, found.shares[[4, 0]])
    batch = numpy.zeros(2, soft_labels.row_type(3))
    batch["image"], batch["partner"], batch["share"] = [0, 5], [1, 0], 1.0
    batch["mix_box"] = [0, 0, 8, 8]  # a quarter of 16 x 16
    expected = 0.75 * found.shares[[0, 5]] + 0.25 * found.shares[[5, 0]]
    torch.testing.assert_close(soft_labels.targets_of(found, batch), expected)


@pytest.mark.parametrize("kind", ["percent", "less their mean", "not normalized", "one that is not"])
def test_soft_labels_that_are_neither_shares_nor_logits_are_refused(kind, original, tmp_path):
    """The softmax of what is nearly shares says nearly nothing, that of percent nothing but the largest."""
    pixels, labels = original
    shares = 0.7 * F.one_hot(labels, 3) + 0.1
    one_off = shares.clone()
    one_off[0, 0] += 0.05
    saved = {
        "percent": 100 * shares,
        "less their mean": F.one_hot(labels, 3) - 1 / 3,
        "not normalized": 0.98 * shares,
        "one that is not": one_off,
    }[kind]
    path = mtt(tmp_path, normalized(pixels), saved)
    with pytest.raises(UserError, match=r"adding up to .* neither shares, .* nor logits"):
        tensor_set.read(path, CLASSES, mean=MEAN, std=STD, soft_labels=True)
    check_same(read(path), original)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_folder_holds_the_pixels_that_its_files_hold(suffix, digits, tmp_path):
    pixels, labels = augment.as_bytes(digits[0]), digits[1]
    written = []
    for number, (image, label) in enumerate(zip(pixels, labels.tolist())):
        path = tmp_path / str(label) / f"{number:03d}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        written.append(torch.from_numpy(numpy.array(Image.open(path))).permute(2, 0, 1))
    found = made_of("digits", tmp_path).distilled
    assert torch.equal(found.pixels, torch.stack(written)) and torch.equal(found.labels, labels)
    assert suffix == "jpg" or torch.equal(found.pixels, pixels)


def test_a_folder_of_this_project_is_taken_without_its_soft_labels(toy):
    found = made_of("toy", toy / "images", root=toy, image_size=16)
    assert found.distilled.fingerprint == image_folder.load_distilled(toy / "images").fingerprint
    assert found.teacher is None and found.shape.mean == list(recipes.IMAGENET.mean)


def made_of(dataset, distilled, root="data/raw", image_size=None, soft_labels=False, **changes):
    settings = recipes.resolve(dataset, "relabel", changes)
    return inputs.without_teacher(
        dataset=dataset,
        root=root,
        distilled=distilled,
        label_settings=settings,
        seed=0,
        image_size=image_size,
        stem=None,
        clamp=False,
        soft_labels=soft_labels,
    )


# ---- pixels outside [0,1] ------------------------------------------------------------------------


def test_pixels_outside_are_cut_off_when_that_is_asked_for(original, tmp_path, capsys):
    pixels, labels = original
    path = dc(tmp_path / "res.pt", normalized(3 * pixels - 1), labels)
    with pytest.raises(UserError, match=r"from -1\.00 to 2\.00, 6[0-9] % of them outside .*--clamp"):
        read(path)
    capsys.readouterr()
    for _ in range(2):  # told once
        check_same(read(path, clamp=True), ((3 * pixels - 1).clamp(0, 1), labels))
    assert re.search(r"^note: .* -1\.00 to 2\.00, 6. % of .*; they are cut off\n\Z", capsys.readouterr().err)


def test_pixels_outside_by_less_than_8_bits_show_are_no_reason_to_refuse(original, tmp_path):
    pixels, labels = original
    slightly = pixels * (1 + 0.9 * tensor_set.TOLERANCE)
    assert slightly.max() > 1
    check_same(read(dc(tmp_path / "res.pt", normalized(slightly), labels)), (slightly.clamp(0, 1), labels))


def whitened(pixels, epsilon=0.1):
    """ZCA, as kornia does it for MTT: (x - mean) C^(-1/2), C the covariance with epsilon on its diagonal."""
    flat = pixels.flatten(1) - pixels.flatten(1).mean(0)
    values, vectors = torch.linalg.eigh(flat.T @ flat / (len(flat) - 1))
    matrix = vectors @ torch.diag((values.clamp(min=0) + epsilon).rsqrt()) @ vectors.T
    return (flat @ matrix).view(pixels.shape)


def test_whitened_images_are_refused_although_they_lie_where_normalized_ones_could(tmp_path):
    """Their values are small, so that no pixel is outside [0,1] when they are taken for normalized ones."""
    coarse = torch.rand(300, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    pixels = F.interpolate(coarse, size=(16, 16), mode="bilinear")
    labels = torch.arange(300) % 3
    check_same(read(mtt(tmp_path, normalized(pixels), labels, "normalized")), (pixels, labels))
    with pytest.raises(UserError, match=r"ZCA-whitened.*not normalized at all; .*PNG in class folders"):
        read(mtt(tmp_path, whitened(pixels), labels, "whitened"), clamp=True)


def test_whitened_images_are_read_from_the_file_of_pixels_that_mtt_saves_beside_them(original, tmp_path):
    pixels, labels = original
    path = mtt(tmp_path, whitened(pixels), labels, "5000")
    torch.save(pixels, tmp_path / "images_zca_5000.pt")
    with pytest.raises(UserError, match=r"name .*images_zca_5000\.pt beside it"):
        read(path)
    check_same(read(tmp_path / "images_zca_5000.pt"), original)
    mtt(tmp_path, whitened(pixels), labels, "10000")
    torch.save(pixels, tmp_path / "images_zca_10000.pt")
    mtt(tmp_path, whitened(pixels), labels)  # of whichever iteration was the best
    for name, told in {"5000": "5000.pt", "10000": "10000.pt", "best": "5000.pt, .*10000.pt"}.items():
        with pytest.raises(
            UserError, match=rf"whitened; name (that .*)?\S*/images_zca_{told} beside it, which"
        ):
            read(tmp_path / f"images_{name}.pt")
    torch.save(2 * pixels, tmp_path / "images_zca_5000.pt")
    with pytest.raises(UserError, match=r"from 0\.00 to 2\.00, [45][0-9] % of them outside \[0,1\]; name"):
        read(tmp_path / "images_zca_5000.pt")


def test_images_normalized_to_minus_one_and_one_are_not_taken_for_others(original, tmp_path):
    """By another mean and std they would lie within [0,1], washed out."""
    pixels, labels = original
    path = dc(tmp_path / "res.pt", 2 * pixels - 1, labels)
    with pytest.raises(
        UserError, match=r"from -1\.00 to 1\.00, .* by mean and std 0\.5, and not by mean 0\.4914"
    ):
        read(path)
    check_same(tensor_set.read(path, CLASSES, mean=[0.5] * 3, std=[0.5] * 3), original)


def test_a_class_may_be_the_largest_of_no_soft_label(original, tmp_path):
    pixels, labels = original
    soft = torch.tensor([[0.6, 0.1, 0.3], [0.1, 0.6, 0.3]])[(labels > 0).long()]
    path = dc(tmp_path / "res.pt", normalized(pixels), soft)
    found = tensor_set.read(path, CLASSES, mean=MEAN, std=STD, soft_labels=True)
    torch.testing.assert_close(found.shares, soft)
    with pytest.raises(UserError, match="no image of class 2"):
        read(path)


# ---- what is refused -----------------------------------------------------------------------------


def zeros(*shape):
    return torch.zeros(shape)


def changed(labels, value):
    return torch.cat([labels[:-1], torch.tensor([value])])


# What is the matter -> (how it is saved in a folder, of good images and labels; words of the line).
BAD = {
    "no file": (lambda at, x, y: at / "nosuch.pt", "there are no images at"),
    "code": (lambda at, x, y: dc(at / "x.pt", x, Malicious()), "not loaded; save its tensors again"),
    "code as accuracy": (lambda at, x, y: dc(at / "x.pt", x, y, [Malicious()]), "not loaded"),
    "code as labels": (lambda at, x, y: mtt(at, x, Malicious()), "labels_best.pt holds more than plain"),
    "a pickle": (lambda at, x, y: pickled(at / "x.pt") or at / "x.pt", "not loaded"),
    "half a file": (lambda at, x, y: cut(dc(at / "x.pt", x, y)) or at / "x.pt", "truncated"),
    "no data": (lambda at, x, y: torch.save({"images": x}, at / "x.pt") or at / "x.pt", "neither {'data'"),
    "no set": (lambda at, x, y: torch.save({"data": []}, at / "x.pt") or at / "x.pt", "neither {'data'"),
    "no pair": (lambda at, x, y: torch.save({"data": [[x]]}, at / "x.pt") or at / "x.pt", "neither {'data'"),
    "no labels": (lambda at, x, y: (mtt(at, x, y), (at / "labels_best.pt").unlink())[0], "labels_best.pt"),
    "no such name": (lambda at, x, y: mtt(at, x, y).rename(at / "x.pt"), "name them as MTT does"),
    "images in a list": (lambda at, x, y: dc(at / "x.pt", [1], y), "holds a list for images"),
    "one channel": (lambda at, x, y: dc(at / "x.pt", x[:, :1], y), "float32 (100, 1, 16, 16) for images"),
    "flat images": (lambda at, x, y: dc(at / "x.pt", x.flatten(1), y), "float32 (100, 768) for images"),
    "no images": (lambda at, x, y: dc(at / "x.pt", x[:0], y[:0]), "float32 (0, 3, 16, 16) for images"),
    "not square": (lambda at, x, y: dc(at / "x.pt", x[..., 1:], y), "(100, 3, 16, 15) for images"),
    "whole pixels": (lambda at, x, y: dc(at / "x.pt", x.to(torch.uint8), y), "uint8 (100, 3, 16, 16)"),
    "not normalized": (lambda at, x, y: dc(at / "x.pt", (x + 1) / 2, y), "value below 0, so they are not"),
    "nested": (
        lambda at, x, y: dc(at / "x.pt", torch.nested.nested_tensor([x[0], x[1]]), y[:2]),
        "holds a nested tensor for images",
    ),
    "no numbers": (lambda at, x, y: dc(at / "x.pt", x / 0, y), "not finite"),
    "a bomb": (
        lambda at, x, y: dc(at / "x.pt", zeros(1, 3, 1, 1).expand(9, 3, 10**6, 10**6), y),
        "float32 (",
    ),
    "another size": (
        lambda at, x, y: dc(at / "x.pt", F.interpolate(x, size=20), y),
        "20 pixels wide, those of the data set 16; use images of that size, or name theirs with --image-size",
    ),
    "outside": (lambda at, x, y: dc(at / "x.pt", 1.2 * x, y), "from -0.10 to 1.10"),
    "label too large": (lambda at, x, y: dc(at / "x.pt", x, changed(y, 10)), "has the label 10"),
    "label below 0": (lambda at, x, y: mtt(at, x, changed(y, -1)), "labels_best.pt has the label -1"),
    "class missing": (lambda at, x, y: dc(at / "x.pt", x[y > 0], y[y > 0]), "no image of class 0"),
    "labels for images": (
        lambda at, x, y: mtt(at, x, y) and at / "labels_best.pt",
        "int64 (100,) for images",
    ),
    "label missing": (lambda at, x, y: dc(at / "x.pt", x, y[1:]), "int64 (99,) for the labels of 100 images"),
    "broken labels": (lambda at, x, y: dc(at / "x.pt", x, y.float()), "float32 (100,) for the labels"),
    "soft labels of fewer": (lambda at, x, y: dc(at / "x.pt", x, zeros(100, 9)), "float32 (100, 9)"),
    "soft labels without numbers": (lambda at, x, y: mtt(at, x, zeros(100, 10) / 0), "needed are whole"),
    "folder of other classes": (lambda at, x, y: folder_of(at, "cat", 16), "not those of the data set (0, 1"),
    "folder of another size": (
        lambda at, x, y: folder_of(at, "0123456789", 20),
        "20 pixels wide, those of the data set 16",
    ),
    "folder not square": (lambda at, x, y: folder_of(at, "0123456789", 16, 17), "not square"),
}


def folder_of(folder, classes, *size):
    """Class folders of one image each. classes: a letter each. size: width, and height where they differ."""
    for name in classes:
        (folder / "images" / name).mkdir(parents=True)
        Image.new("RGB", (size[0], size[-1])).save(folder / "images" / name / "0.png")
    return folder / "images"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # torch's, of the case that makes one
@pytest.mark.parametrize("case", BAD)
def test_what_is_bad_is_named_in_one_line(case, digits, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    save, expected = BAD[case]
    path = save(tmp_path, normalized(digits[0], [0.5] * 3, [0.5] * 3), digits[1])
    line = refused("train", *FLAGS, "--distilled", path, "--output", tmp_path / "out")
    assert expected in line and "; " in line, line
    assert not (tmp_path / "pwned").exists() and not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--labels", "hard", "--teacher", "t.pt"], "--teacher goes with soft labels"),
        (["--labels", "hard", "--temperature", 3], "--temperature goes with soft labels"),
        (["--labels", "hard", "--top-classes", 3], "--top-classes goes with soft labels"),
        (["--labels", "online"], "required: --teacher"),
        (["--labels", "online", "--teacher", "t.pt", "--clamp"], "--clamp goes with --labels hard"),
        (["--labels", "online", "--teacher", "t.pt", "--image-size", 32], "--image-size goes with"),
        (["--labels", "online", "--teacher", "t.pt", "--stem", "cifar"], "--stem goes with"),
        (["--labels", "online", "--teacher", "t.pt", "--top-classes", 3], "--top-classes is of labels that"),
        (["--labels", "online", "--teacher", "t.pt", "--label-format", "int8"], "--label-format is of"),
        (["--labels", "online", "--teacher", "t.pt", "--dsa"], "--dsa shows what the teacher has not seen"),
        (
            ["--labels", "x", "--teacher", "t.pt", "--recipe", "mtt", "--gradient-weight", 1],
            "--dsa shows what the teacher has not seen",
        ),
        (["--labels", "hard", "--recipe", "mtt", "--adversarial-share", 1], "--dsa leaves [0,1]"),
        (
            ["--labels", "x", "--teacher", "t.pt", "--recipe", "mtt", "--adversarial-share", 1],
            "--dsa leaves [0,1]",
        ),
        (["--labels", "hard", "--views-against", "teacher"], "--views-against goes with soft labels"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(flags, expected, refused):
    words = ["--dataset", "digits", "--distilled", "x.pt", "--output", "out", "--check"]
    assert expected in refused("train", *words, *flags)


# ---- training ------------------------------------------------------------------------------------


def test_images_that_are_not_in_8_bits_are_seen_as_those_in_8_bits(original):
    """Also where those go through torchvision's kernel of 8 bits, which large ones do."""
    size = augment.LARGE
    pixels = augment.as_bytes(F.interpolate(original[0], size=size))
    sides = torch.full((len(pixels),), size)
    for augmentation in ("resized-crop", "pad-crop"):
        views = augment.draw_views(torch.Generator().manual_seed(0), augmentation, sides, sides)
        seen, exact = (augment.apply_views(each, views, size) for each in (pixels, pixels.float() / 255))
        assert exact.dtype == torch.float32
        assert (exact - seen.float() / 255).abs().max() < 1.5 / 255


@pytest.fixture(scope="module")
def judged(digits, tmp_path_factory):
    """judged(name, *flags, labels=...): folder of a student of real digits in a file of DC."""
    root = tmp_path_factory.mktemp("judged")

    def call(name, *flags, labels=digits[1]):
        path = dc(root / f"{name}.pt", normalized(digits[0], [0.5] * 3, [0.5] * 3), labels)
        words = ["--distilled", path, "--output", root / name, "--epochs", 30]
        assert command("train", *FLAGS, *words, *flags) == 0
        return root / name

    return call


def test_a_student_is_trained_from_a_file_and_attacked_with_equal_bits_from_one_seed(judged, capsys):
    one, same, other = judged("one"), judged("same"), judged("other", "--seed", 1)
    prints = [checkpoint.load(each / "checkpoint.pt").fingerprint for each in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]
    record = records.read(one / "log.json")
    assert record["train"]["settings"]["loss"] == "cross-entropy"
    assert set(record) == {"train", "evaluate student"} and (one / "report.md").exists()
    capsys.readouterr()
    judged("one")
    assert "is finished" in capsys.readouterr().out
    words = ["--checkpoint", one / "checkpoint.pt", "--dataset", "digits", "--images", 1, "--workers", 0]
    assert command("train.evaluate", *words, "--attacks", "fgsm,mim") == 0
    assert {"fgsm", "mim"} <= set(records.read(one / "log.json")["evaluate student"]["attacks"])


def test_what_the_labels_say_is_what_is_learnt(judged, digits):
    shifted = judged("shifted", labels=(digits[1] + 1) % 10)
    found = [records.read(each / "log.json")["train"] for each in (judged("one"), shifted)]
    right, wrong = (entry["results"]["val accuracy"] for entry in found)
    assert right > 60 and wrong < 15


def test_a_student_of_hard_labels_is_more_robust_by_adversarial_views(judged):
    """Though no teacher says what the views should be."""
    words = ["--epochs", 60, "--images", 5, "--epsilon", "12/255"]
    plain = judged("plain", *words)
    adversarial = judged("adversarial", *words, "--adversarial-share", 1, "--view-epsilon", "12/255")
    found = [records.read(each / "log.json") for each in (plain, adversarial)]
    before, after = (each["evaluate student"]["attacks"]["pgd20"]["accuracy"] for each in found)
    assert after > before + 30
    assert [each["train"]["settings"].get("view_target") for each in found] == [None, "hard labels"]


def test_soft_labels_are_what_is_learnt(digits, tmp_path, refused, capsys):
    """They name each image's class first, but nearly as much the next one: the largest alone would do."""
    images, labels = normalized(digits[0], [0.5] * 3, [0.5] * 3), digits[1]
    soft = 0.51 * F.one_hot(labels, 10) + 0.49 * F.one_hot((labels + 1) % 10, 10)
    path = mtt(tmp_path, images, soft)
    words = [*FLAGS, "--distilled", path, "--epochs", 40, "--batch-size", 25, "--learning-rate", 0.01]
    words += ["--mix", "none", "--augmentation", "none"]
    losses = {}
    for name, more in {"hard": [], "soft": ["--soft-labels"]}.items():
        assert command("train", *words, *more, "--output", tmp_path / name) == 0
        losses[name] = records.read(tmp_path / name / "log.json")["train"]["history"][-1]["loss"]
    # The entropy of 0.51 and 0.49 is what is left at best.
    assert losses["soft"] > 0.69 > losses["hard"]
    whole = mtt(tmp_path, images, labels, "5000")
    for given in (whole, folder_of(tmp_path / "f", "0123456789", 16)):
        flags = [*FLAGS, "--soft-labels", "--distilled", given, "--output", tmp_path / "no"]
        assert "leave --soft-labels out" in refused("train", *flags)
    capsys.readouterr()
    judged = [
        "train.judge",
        "--dataset",
        "digits",
        *TOY["train"][2:],
        "--images",
        1,
        "--networks",
        "convnet-32",
    ]
    judged += ["--epochs", 1, "--distilled", path, "--soft-labels", "--output", tmp_path / "judged"]
    assert command(*judged, "--random") == 0
    printed = capsys.readouterr().out
    assert "Students on soft labels of digits (random images on hard ones), recipe" in printed
    assert "IOR" not in printed, "unlike labels are not compared"
    assert "HLR" in refused(*judged, "--full", 90)


def test_each_epoch_has_its_views_and_the_images_labels(digits, tmp_path):
    path = dc(tmp_path / "x.pt", normalized(digits[0], [0.5] * 3, [0.5] * 3), digits[1])
    found = made_of("digits", path, epochs=7, batch_size=30, mix="none")
    assert (found.epochs, found.labels.recipe.batch_size) == (7, 30)
    rows, others = found.labels.rows(0), found.labels.rows(1)
    assert sorted(rows["image"].tolist()) == list(range(100)) and rows.tobytes() != others.tobytes()
    assert (rows["box"][:, :2] != 0).any() and not rows["logits"].any()

"""Labels in fewer bytes say the same, and the teacher's input gradients are the derivatives."""

import dataclasses

import numpy
import pytest
import torch
import torch.nn.functional as F
from conftest import TOY, command, pixel_model

from guard.data.images import Packed
from guard.distilled import soft_labels
from guard.distilled.label_format import packed, stored_type, unpacked
from guard.method import losses, views
from guard.networks import layout
from guard.run.seeds import generator
from guard.settings import Train
from train import student

SIZE, CLASSES = 8, 3
RECIPE = soft_labels.LabelRecipe(epochs=3, batch_size=4, mix="cutmix", precision="fp32", seed=5)


@pytest.fixture
def images():
    pixels = torch.randint(0, 256, (10, 3, SIZE, SIZE), generator=generator("images"), dtype=torch.uint8)
    return Packed(pixels, torch.arange(10) % CLASSES, ("a", "b", "c"))


VIEW = ("image", "box", "flip", "partner", "share", "mix_box")


@pytest.mark.parametrize("gradients", ["none", "signs", "values"])
@pytest.mark.parametrize("top", [0, 1, 3])
@pytest.mark.parametrize("form", ["fp16", "int8"])
@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_what_is_stored_is_read_as_it_was(form, top, gradients, mix, images, network):
    changes = {"label_format": form, "top_classes": top, "input_gradients": gradients, "mix": mix}
    recipe = dataclasses.replace(RECIPE, **changes)
    rows = soft_labels.make_epoch(pixel_model(network.float()), images, recipe, 2)
    stored = packed(rows, recipe, SIZE)
    assert stored.dtype == stored_type(recipe, CLASSES, SIZE)
    found = unpacked(stored, recipe, CLASSES, SIZE, epoch=2)
    assert found.dtype == rows.dtype
    for name in set(rows.dtype.names) - {"logits"}:
        assert found[name].tobytes() == rows[name].tobytes(), name
    exact, read = rows["logits"].astype(float), found["logits"].astype(float)
    step = abs(exact).max(1, keepdims=True) / 127 if form == "int8" else 0 * exact[:, :1]
    rounding = step / 2 + abs(exact) * 2**-10
    order = numpy.argsort(-exact, axis=1)
    kept = order[:, : top or CLASSES]
    near = abs(read - exact) <= rounding
    assert numpy.take_along_axis(near, kept, 1).all()
    if top and top < CLASSES:
        others = order[:, top:]
        mean = numpy.take_along_axis(exact, others, 1).mean(1, keepdims=True)
        assert numpy.allclose(numpy.take_along_axis(read, others, 1), mean, atol=2e-3)


@pytest.mark.parametrize("gradients", ["signs", "values"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_input_gradients_in_bf16_are_near_those_in_fp32(gradients, channels_last, images, network):
    found = []
    for precision in ("fp32", "bf16"):
        recipe = dataclasses.replace(RECIPE, input_gradients=gradients, precision=precision)
        model = pixel_model(network.float())
        layout.arrange(model.network, channels_last=channels_last and precision == "bf16", compile=False)
        rows = soft_labels.make_epoch(model, images, recipe, 2)
        found.append(soft_labels.gradient_of(rows, SIZE).flatten())
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > (0.9 if gradients == "values" else 0.7)


def test_the_small_formats_are_small():
    def size(classes, **changes):
        return stored_type(dataclasses.replace(RECIPE, **changes), classes, 32).itemsize

    assert size(10) == 29 + 20
    assert size(10, label_format="int8") == 10 + 4
    assert size(1000, label_format="int8", top_classes=20) == 20 + 4 + 40 + 2
    assert size(10, input_gradients="signs") == size(10) + 3 * 32 * 32 // 8


def test_logits_that_are_all_zero_stay_zero():
    recipe = dataclasses.replace(RECIPE, label_format="int8")
    rows = soft_labels.draw_epoch(recipe, 4, SIZE, CLASSES, 0)
    assert (unpacked(packed(rows, recipe, SIZE), recipe, CLASSES, SIZE, 0)["logits"] == 0).all()


# ---- input gradients -----------------------------------------------------------------------------


def test_the_stored_gradient_is_the_derivative_by_the_pixels(images, network):
    """Against differences of the cross-entropy in float64."""
    recipe = dataclasses.replace(RECIPE, input_gradients="values")
    model = pixel_model(network.float())
    rows = soft_labels.make_epoch(model, images, recipe, 0)
    batch = rows[:4]
    pixels = soft_labels.look(images, batch).double()
    targets = soft_labels.targets_of(images, batch).double()
    model = model.double()

    def cross_entropy(moved):
        return F.cross_entropy(model(moved), targets, reduction="none")

    gradient = soft_labels.gradient_of(batch, SIZE).double()
    largest = gradient.abs().amax((1, 2, 3))
    for channel, row, column in [(0, 0, 0), (1, 3, 6), (2, 7, 7), (0, 5, 2)]:
        change = torch.zeros_like(pixels)
        change[:, channel, row, column] = 1e-5
        expected = (cross_entropy(pixels + change) - cross_entropy(pixels - change)).detach() / 2e-5
        found = gradient[:, channel, row, column]
        assert ((found - expected).abs() <= 1e-3 * largest + 1e-9).all()
    signs = soft_labels.make_epoch(
        model.float(), images, dataclasses.replace(recipe, input_gradients="signs"), 0
    )
    read = soft_labels.gradient_of(signs[:4], SIZE)
    assert torch.equal(read > 0, gradient > 0) and set(read.unique().tolist()) == {-1.0, 1.0}
    assert signs["logits"].tobytes() == rows["logits"].tobytes()


def test_labels_without_gradients_have_none(images, network):
    rows = soft_labels.make_epoch(pixel_model(network.float()), images, RECIPE, 0)
    assert soft_labels.gradient_of(rows[:4], SIZE) is None


@pytest.fixture
def batch():
    pixels = torch.rand(4, 3, SIZE, SIZE, generator=generator("pixels"), dtype=torch.float64)
    gradient = torch.randn(pixels.shape, generator=generator("gradient"), dtype=torch.float64)
    targets = torch.rand(4, CLASSES, generator=generator("targets"), dtype=torch.float64)
    return pixels, gradient, targets / targets.sum(1, keepdim=True)


def test_the_distance_of_the_gradients_is_the_formula_and_reaches_the_weights(batch, network):
    pixels, teacher_gradient, targets = batch
    model = pixel_model(network)
    weight = next(weight for weight in model.parameters() if weight.ndim > 1)

    def distance():
        """Image by image, the model in eval mode, so that images have nothing to do with each other."""
        squares = 0.0
        for image, wanted, target in zip(pixels, teacher_gradient, targets):
            seen = image[None].clone().requires_grad_()
            (-(model(seen)[0].log_softmax(0) * target).sum()).backward()
            squares += (seen.grad[0] - wanted).square().sum().item()
        return squares**0.5 / len(pixels)

    seen = pixels.clone().requires_grad_()
    found = losses.gradient_distance(seen, model(seen), teacher_gradient, targets)
    assert found.item() == pytest.approx(distance(), rel=1e-10)
    (by_weight,) = torch.autograd.grad(found, weight)
    for place in (0, weight.numel() // 2):
        values = []
        for change in (1e-6, -2e-6):
            with torch.no_grad():
                weight.view(-1)[place] += change
            values.append(distance())
        with torch.no_grad():
            weight.view(-1)[place] += 1e-6
        assert by_weight.flatten()[place].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_views_against_the_teacher_are_one_step_of_epsilon_within_valid_pixels(batch):
    pixels, gradient, _ = batch
    found = views.views_against_teacher(pixels, gradient, epsilon=0.1)
    for before, slope, after in zip(*(each.flatten().tolist() for each in (pixels, gradient, found))):
        assert after == pytest.approx(min(max(before + (0.1 if slope > 0 else -0.1), 0), 1))
    assert torch.equal(views.views_against_teacher(pixels, gradient.sign(), epsilon=0.1), found)


def test_the_students_loss_adds_them(batch, network):
    pixels, gradient, targets = batch
    model = pixel_model(network)
    logits = torch.randn(4, CLASSES, generator=generator("logits"), dtype=torch.float64)
    noise = torch.rand(pixels.shape, generator=generator("noise"), dtype=torch.float64)

    def loss(**changes):
        settings = Train(temperature=2.0, view_epsilon=0.1, **changes)
        beside = {"teacher_gradient": gradient, "noise": noise}
        return student.student_loss(settings, model, pixels, logits, targets, **beside).item()

    seen = pixels.clone().requires_grad_()
    distance = losses.gradient_distance(seen, model(seen), gradient, targets).item()
    assert loss(gradient_weight=7.0) == pytest.approx(loss() + 7 * distance)
    moved = views.views_against_teacher(pixels, gradient, epsilon=0.1)
    of_moved = losses.kullback_leibler(model(moved), logits, targets, 2.0).item()
    assert loss(adversarial_share=1.0, views_against="teacher") == pytest.approx(of_moved)
    both = loss(adversarial_share=1.0, views_against="teacher", gradient_weight=7.0)
    assert both == pytest.approx(of_moved + 7 * distance)
    divergence = losses.kullback_leibler(model(pixels), logits, targets, 2.0).item()
    cross_entropy = losses.hard_cross_entropy(model(pixels), logits, targets, 2.0).item()
    assert loss(loss="kl+cross-entropy") == pytest.approx((divergence + cross_entropy) / 2)


# ---- as stages -----------------------------------------------------------------------------------


def relabel(toy, output, *more):
    made = ["--teacher", toy / "teacher/checkpoint.pt", "--distilled", toy / "images"]
    return ["relabel", *made, "--output", output, *TOY["relabel"], *more]


def train(toy, labels, output, *more):
    data = ["--dataset", "toy", "--root", toy, "--teacher", toy / "teacher/checkpoint.pt"]
    return [
        *["train", *data, "--distilled", toy / "images", "--labels", labels, "--output", output],
        *[*TOY["train"], *more],
    ]


IKDIGA = ["--loss", "kl+cross-entropy", "--gradient-weight", 1000]
STEP = ["--adversarial-share", 1, "--views-against", "teacher"]


@pytest.mark.parametrize("needs, kind", [(IKDIGA, "values"), (STEP, "signs")])
def test_stored_and_online_gradients_make_the_same_student(needs, kind, toy, tmp_path, refused):
    assert "--input-gradients " + kind in refused(*train(toy, toy / "labels", tmp_path / "x", *needs))
    assert not (tmp_path / "x" / "checkpoint.pt").exists()
    assert command(*relabel(toy, tmp_path / "labels", "--input-gradients", kind)) == 0
    assert command(*train(toy, tmp_path / "labels", tmp_path / "stored", *needs)) == 0
    online = ["--epochs", 2, "--input-gradients", kind]
    assert command(*train(toy, "online", tmp_path / "online", *needs, *online)) == 0
    made = [soft_student(tmp_path / name) for name in ("stored", "online")]
    assert made[0] == made[1]


def soft_student(folder):
    from guard.networks import checkpoint

    return checkpoint.load(folder / "checkpoint.pt", "student").fingerprint


def test_signs_are_too_little_for_the_distance_of_gradients(toy, tmp_path, refused):
    assert command(*relabel(toy, tmp_path / "labels", "--input-gradients", "signs")) == 0
    assert "--input-gradients values" in refused(*train(toy, tmp_path / "labels", tmp_path / "x", *IKDIGA))


def test_small_labels_train_and_damaged_ones_are_named(toy, tmp_path, refused):
    small = ["--label-format", "int8", "--top-classes", 1]
    assert command(*relabel(toy, tmp_path / "labels", *small)) == 0
    assert command(*train(toy, tmp_path / "labels", tmp_path / "s")) == 0
    assert "other label_format" in refused(*relabel(toy, tmp_path / "labels"))
    path = tmp_path / "labels/epoch_0000.npy"
    rows = numpy.load(path)
    rows["classes"] = 7
    numpy.save(path, rows)
    assert "epoch_0000.npy" in refused(*train(toy, tmp_path / "labels", tmp_path / "x"))
    assert "--top-classes 3" in refused(*relabel(toy, tmp_path / "y", "--top-classes", 3))


def test_labels_are_gone_through_again_where_asked(toy, tmp_path, refused):
    longer = ["--epochs", 5]
    assert "--reuse-labels" in refused(*train(toy, toy / "labels", tmp_path / "x", *longer))
    assert command(*train(toy, toy / "labels", tmp_path / "s", *longer, "--reuse-labels")) == 0
    assert command(*train(toy, toy / "labels", tmp_path / "two")) == 0
    assert soft_student(tmp_path / "s") != soft_student(tmp_path / "two")


@pytest.mark.parametrize("most", [1, 2**28])
@pytest.mark.parametrize("kind", ["signs", "values"])
def test_what_is_written_at_once_or_bit_by_bit_is_the_same(kind, most, network, monkeypatch):
    """Signs are packed on the device as numpy packs them, also where their number is no multiple of 8."""
    monkeypatch.setattr(soft_labels, "MOST_KEPT", most)
    gradient = torch.randn(3, 3, 3, 3, generator=generator("gradient"))
    fields = soft_labels._fields_of(gradient, kind)
    rows = numpy.zeros(6, soft_labels.row_type(3, 3, kind))
    kept = soft_labels._Kept(rows)
    for _ in range(2):
        kept.add(logits=torch.ones(3, 3).half(), **fields)
    kept.write()
    assert (rows["logits"] == 1).all()
    found = soft_labels.gradient_of(rows, 3)
    if kind == "signs":
        packed = numpy.packbits((gradient > 0).flatten(1).numpy(), axis=1)
        assert numpy.array_equal(rows["signs"], numpy.concatenate([packed, packed]))
        assert torch.equal(found, torch.cat([gradient, gradient]).sign())
    else:
        torch.testing.assert_close(found, torch.cat([gradient, gradient]), rtol=1e-3, atol=1e-4)

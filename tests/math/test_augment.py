"""Views and mixes against torchvision and the naive loops."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from guard.bench import reference
from guard.data import augment
from guard.run.seeds import generator


def pixels(count, height, width):
    return torch.randint(0, 256, (count, 3, height, width), generator=generator("pixels"), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(50, 70, 16), (50, 70, 64), (32, 32, 32), (224, 224, 224), (33, 20, 100)]
)
def test_resized_crops_are_torchvisions(height, width, size):
    images = pixels(6, height, width)
    views = augment.draw_views(
        generator("views"), "resized-crop", torch.full((6,), height), torch.full((6,), width)
    )
    assert views.flips.any() and not views.flips.all()
    found = augment.Sampler(views, (height, width), size)(augment.as_float(images))
    for image, box, flip, one in zip(images, views.boxes.tolist(), views.flips, found):
        expected = transforms.resized_crop(image.float() / 255, *box, [size, size], antialias=True)
        torch.testing.assert_close(one, expected.flip(2) if flip else expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("augmentation", ["pad-crop", "shift"])
def test_pad_crops_copy_pixels_and_pad_with_black(augmentation):
    images = pixels(64, 32, 32)
    views = augment.draw_views(generator("pads"), augmentation, torch.full((64,), 32), torch.full((64,), 32))
    found = augment.apply_views(images, views, 32)
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4)).float() / 255
    for image, (top, left, height, width), flip, one in zip(padded, views.boxes.tolist(), views.flips, found):
        assert (height, width) == (32, 32)
        expected = image[:, top + 4 : top + 36, left + 4 : left + 36]
        assert torch.equal(augment.as_float(one), expected.flip(2) if flip else expected)
    assert views.boxes[:, :2].min() == -4 and views.boxes[:, :2].max() == 4
    assert views.flips.any() == (augmentation == "pad-crop")


@pytest.mark.parametrize("augmentation", ["pad-crop", "resized-crop"])
def test_without_flips_views_are_the_same_crops_unmirrored(augmentation):
    size = torch.full((64,), 32)
    mirrored = augment.draw_views(generator("f"), augmentation, size, size)
    views = augment.draw_views(generator("f"), augmentation, size, size, flip=False)
    assert mirrored.flips.any() and not views.flips.any() and torch.equal(views.boxes, mirrored.boxes)


def correlation(one, other):
    return abs(torch.corrcoef(torch.stack([one, other]).double())[0, 1].item())


@pytest.mark.parametrize("augmentation", ["pad-crop", "shift", "resized-crop"])
def test_rows_columns_and_flips_are_drawn_apart(augmentation):
    size = torch.full((4000,), 32)
    views = augment.draw_views(generator("apart"), augmentation, size, size)
    top, left, flips = views.boxes[:, 0], views.boxes[:, 1], views.flips
    if augmentation == "resized-crop":  # where of the places that its size leaves it
        fits = (views.boxes[:, 2] < 28) & (views.boxes[:, 3] < 28)
        top, left = (views.boxes[fits, axis] / (32 - views.boxes[fits, axis + 2]).double() for axis in (0, 1))
        flips = flips[fits]
    assert correlation(top, left) < 0.07
    if augmentation != "shift":
        assert 0.46 < flips.double().mean() < 0.54
        assert correlation(top, flips) < 0.07 and correlation(left, flips) < 0.07


def test_crops_are_distributed_as_torchvisions():
    """Mean area, aspect ratio and position of many boxes, within five standard errors."""
    count, height, width = 4000, 120, 90
    boxes = augment.resized_crops(
        generator("many"), torch.full((count,), height), torch.full((count,), width), 0.08
    ).double()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = [v2.RandomResizedCrop(8).make_params([image]) for _ in range(count)]
    theirs = torch.tensor(
        [[each[key] for key in ("top", "left", "height", "width")] for each in theirs]
    ).double()
    assert (
        (boxes >= 0).all()
        and (boxes[:, 0] + boxes[:, 2] <= height).all()
        and (boxes[:, 1] + boxes[:, 3] <= width).all()
    )
    for quantity in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: (b[:, 3] / b[:, 2]).log(),
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        ours, expected = quantity(boxes), quantity(theirs)
        assert abs(ours.mean() - expected.mean()) < 5 * (ours.var() / count + expected.var() / count).sqrt()
        assert abs(ours.std() / expected.std() - 1) < 0.08


def test_crop_of_an_image_that_no_crop_fits_is_the_largest_centred_one():
    boxes = augment.resized_crops(
        generator("thin"), torch.tensor([300]), torch.tensor([10]), torch.tensor(0.999)
    )
    assert boxes.tolist() == [[143, 0, 13, 10]]  # 13 = round(10 / (3 / 4)), centred in 300


def test_lower_bounds_per_image():
    smallest = torch.tensor([0.08, 0.99]).repeat_interleave(200)
    boxes = augment.resized_crops(
        generator("bounds"), torch.full((400,), 64), torch.full((400,), 64), smallest
    ).double()
    areas = boxes[:, 2] * boxes[:, 3] / 64**2
    assert areas[:200].min() < 0.2 and areas[200:].min() > 0.7


def test_rolls_are_torch_roll_after_crop_and_flip():
    images = pixels(3, 20, 20).float() / 255
    views = augment.draw_views(generator("r"), "resized-crop", torch.full((3,), 20), torch.full((3,), 20))
    rolls = torch.tensor([[3, 0], [0, 5], [19, 7]])
    plain = augment.Sampler(views, (20, 20), 20)(images)
    rolled = augment.Sampler(views, (20, 20), 20, rolls=rolls)(images)
    for one, other, roll in zip(plain, rolled, rolls.tolist()):
        torch.testing.assert_close(other, torch.roll(one, roll, dims=(1, 2)), rtol=0, atol=1e-6)


def test_mixes_are_the_naive_ones():
    images = pixels(8, 16, 16).float() / 255
    boxes = 0
    for number in range(20):
        cut = augment.draw_mix(generator("cut", number), "cutmix", 8, 16, 1.0)
        if cut.box[2] and cut.box[3]:
            boxes += 1
            torch.testing.assert_close(
                augment.apply_mix(images, cut), reference.cutmix(images, cut.partner, cut.box)
            )
        else:
            assert torch.equal(augment.apply_mix(images, cut), images)
        blend = augment.draw_mix(generator("mix", number), "mixup", 8, 16, 0.8)
        assert 0 <= blend.share <= 1 and sorted(blend.partner.tolist()) == list(range(8))
        torch.testing.assert_close(
            augment.apply_mix(images, blend), reference.mixup(images, blend.partner, blend.share)
        )
    assert boxes > 10
    assert augment.apply_mix(images, augment.draw_mix(generator("none"), "none", 8, 16, 1.0)) is images


def test_cutmix_boxes_have_the_areas_of_their_beta_distribution():
    """With Beta(1, 1) the share that is cut out is uniform, before borders cut it off: side^2 / size^2
    has mean 1/2.
    """
    areas, centres = [], []
    for number in range(2000):
        top, left, height, width = augment.draw_mix(generator("area", number), "cutmix", 2, 64, 1.0).box
        assert 0 <= top and top + height <= 64 and 0 <= left and left + width <= 64
        areas.append(height * width / 64**2)
        if max(top, left) > 0 and max(top + height, left + width) < 64:  # whole, so its centre is known
            centres.append((top + height / 2, left + width / 2))
    # E[area] = E[(E over a uniform centre of the clipped side)^2] = integral of (s - s^2/4)^2 over s^2
    # uniform = 0.3 - rounding.
    expected = sum((s - s * s / 4) ** 2 for s in (((k + 0.5) / 1000) ** 0.5 for k in range(1000))) / 1000
    assert sum(areas) / len(areas) == pytest.approx(expected, abs=0.03)
    rows, columns = torch.tensor(centres).T
    assert len(centres) > 300 and correlation(rows, columns) < 0.15


def test_draws_depend_on_their_key_alone():
    torch.manual_seed(0)
    one = torch.rand(3, generator=generator(1, "x", 2))
    torch.manual_seed(5)
    assert torch.equal(one, torch.rand(3, generator=generator(1, "x", 2)))
    assert not torch.equal(one, torch.rand(3, generator=generator(1, "x", 3))) and not torch.equal(
        one, torch.rand(3, generator=generator(2, "x", 2))
    )


def test_gradient_of_a_view_is_its_transpose():
    images = torch.rand(2, 3, 9, 9, generator=generator("g"), dtype=torch.float64, requires_grad=True)
    views = augment.draw_views(generator("gv"), "resized-crop", torch.full((2,), 9), torch.full((2,), 9))
    assert torch.autograd.gradcheck(
        augment.Sampler(views, (9, 9), 7, rolls=torch.tensor([[1, 2], [3, 0]]), dtype=torch.float64), images
    )


@pytest.mark.parametrize("augmentation", ["resized-crop", "pad-crop"])
def test_one_by_one_and_in_a_batch_are_the_same_views(augmentation):
    draws = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (6, 3, 80, 80), generator=draws, dtype=torch.uint8)
    views = augment.draw_views(draws, augmentation, torch.full((6,), 80), torch.full((6,), 80))
    alone = augment.apply_views(pixels, views, 72)
    batch = augment.Sampler(views, (80, 80), 72)(pixels.float() / 255)
    assert alone.dtype == torch.uint8
    torch.testing.assert_close(augment.as_float(alone), batch, rtol=0, atol=1.01 / 255)


def test_cutmix_of_bytes_is_that_of_floats():
    draws = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (6, 3, 16, 16), generator=draws, dtype=torch.uint8)
    for kind in ("cutmix", "mixup", "none"):
        mix = augment.draw_mix(draws, kind, 6, 16, 1.0)
        assert torch.equal(
            augment.as_float(augment.apply_mix(pixels, mix)), augment.apply_mix(augment.as_float(pixels), mix)
        )

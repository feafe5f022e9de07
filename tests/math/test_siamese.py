"""DSA against its definition, pixel by pixel in float64, and what its draws reach."""

import math
from collections import Counter

import device_steps
import pytest
import torch

from guard.data import siamese
from guard.distilled import soft_labels
from guard.run.seeds import generator
from guard.settings import Train
from train import student


def colored(image, brightness, saturation, contrast):
    """image: channel -> row -> list of pixels."""
    channels, size = len(image), len(image[0])
    places = [(row, column) for row in range(size) for column in range(size)]
    image = [[[pixel + brightness - 0.5 for pixel in row] for row in plane] for plane in image]
    for row, column in places:
        grey = sum(plane[row][column] for plane in image) / channels
        for plane in image:
            plane[row][column] = 2 * saturation * (plane[row][column] - grey) + grey
    grey = sum(plane[row][column] for plane in image for row, column in places) / (channels * size**2)
    return [[[(contrast + 0.5) * (pixel - grey) + grey for pixel in row] for row in plane] for plane in image]


def moved(image, source):
    """source(row, column): the place, perhaps between pixels, that a pixel is taken from, or None for 0."""
    size = len(image[0])

    def at(plane, row, column):
        return plane[row][column] if 0 <= row < size and 0 <= column < size else 0.0

    def between(plane, row, column):
        top, left = math.floor(row), math.floor(column)
        down, right = row - top, column - left
        return (
            (1 - down) * (1 - right) * at(plane, top, left)
            + (1 - down) * right * at(plane, top, left + 1)
            + down * (1 - right) * at(plane, top + 1, left)
            + down * right * at(plane, top + 1, left + 1)
        )

    def pixel(plane, row, column):
        place = source(row, column)
        return 0.0 if place is None else between(plane, *place)

    return [[[pixel(plane, row, column) for column in range(size)] for row in range(size)] for plane in image]


def cropped(image, first, second, _):
    furthest = int(len(image[0]) * 0.125 + 0.5)
    down, right = (math.floor(each * (2 * furthest + 1)) - furthest for each in (first, second))
    return moved(image, lambda row, column: (row + down, column + right))


def cut_out(image, first, second, _):
    size = len(image[0])
    side = int(size * 0.5 + 0.5)
    centres = [math.floor(each * (size + 1 - side % 2)) for each in (first, second)]
    # The published way: the region's rows and columns are taken back into the image.
    gone = [{min(max(centre - side // 2 + i, 0), size - 1) for i in range(side)} for centre in centres]
    return moved(image, lambda *place: None if all(x in out for x, out in zip(place, gone)) else place)


def flipped(image, chance, *_):
    size = len(image[0])
    return moved(image, lambda row, column: (row, size - 1 - column if chance < 0.5 else column))


def linear(image, matrix):
    """Around the centre, by a matrix on (column, row)."""
    centre = (len(image[0]) - 1) / 2
    (a, b), (c, d) = matrix

    def source(row, column):
        x, y = column - centre, row - centre
        return c * x + d * y + centre, a * x + b * y + centre

    return moved(image, source)


def scaled(image, first, second, _):
    return linear(image, [[1 / 1.2 + first * (1.2 - 1 / 1.2), 0], [0, 1 / 1.2 + second * (1.2 - 1 / 1.2)]])


def rotated(image, first, *_):
    angle = (2 * first - 1) * 15 * math.pi / 180
    return linear(image, [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


DEFINITIONS = {
    "color": colored,
    "crop": cropped,
    "cutout": cut_out,
    "flip": flipped,
    "scale": scaled,
    "rotate": rotated,
}


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("kind", siamese.KINDS)
def test_each_kind_is_its_definition(kind, size):
    draws = generator("siamese", kind, size)
    images = torch.randn(9, 3, size, size, generator=draws, dtype=torch.float64)
    numbers = torch.rand(9, siamese.MOST_NUMBERS, generator=draws, dtype=torch.float64)
    numbers[:2] = torch.tensor([[0.0], [1 - 1e-9]], dtype=torch.float64)  # the ends
    found = siamese.apply(images, kind, numbers)
    wanted = [DEFINITIONS[kind](image.tolist(), *row.tolist()) for image, row in zip(images, numbers)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    in_fp32 = siamese.apply(images.float(), kind, numbers.float())
    assert in_fp32.dtype == torch.float32
    # Where a place lies on the border of two pixels, rounding takes either; bilinear, that is no jump.
    torch.testing.assert_close(in_fp32.double(), found, rtol=1e-4, atol=1e-4)


def test_what_may_not_be_mirrored_meets_every_other_kind():
    kinds = {siamese.draw(generator("draws", number), 2, flip=False)[0] for number in range(200)}
    assert kinds == {*DEFINITIONS} - {"flip"}


def test_kinds_are_all_as_likely_and_numbers_are_uniform():
    drawn = [siamese.draw(generator("draws", number), 50) for number in range(1200)]
    counts = Counter(kind for kind, _ in drawn)
    assert set(counts) == set(DEFINITIONS)
    assert all(150 < count < 250 for count in counts.values())  # 200 expected, deviation 13
    numbers = torch.cat([each for _, each in drawn])
    assert numbers.shape == (60000, siamese.MOST_NUMBERS) and 0 <= numbers.min() and numbers.max() < 1
    assert (numbers.mean(0) - 0.5).abs().max() < 0.006 and (numbers.std(0) - 12**-0.5).abs().max() < 0.006
    assert numbers.T.corrcoef().fill_diagonal_(0).abs().max() < 0.02


def test_shifts_and_centres_reach_each_place_they_may():
    """Of a ramp along each axis, 32 pixels wide: shifts from -4 to 4, centres of the cut from 0 to 32."""
    count, size = 4000, 32
    numbers = torch.rand(count, siamese.MOST_NUMBERS, generator=generator("places"))
    rows = torch.arange(1.0, size + 1).view(1, 1, size, 1).expand(count, 3, size, size)
    for images, axis in ((rows, 0), (rows.transpose(2, 3), 1)):
        middle = siamese.apply(images, "crop", numbers)[:, 0, 16, 16] - 17
        shifts = Counter(middle.int().tolist())
        assert set(shifts) == set(range(-4, 5)), axis
        assert all(350 < times < 540 for times in shifts.values())  # 444 expected, deviation 20
        cut = siamese.apply(torch.ones_like(images), "cutout", numbers)[:, 0] == 0
        lines = cut.any(2 - axis)
        firsts, lengths = lines.int().argmax(1), lines.sum(1)
        ends = {(first, length) for first, length in zip(firsts.tolist(), lengths.tolist())}
        whole = {(max(centre - 8, 0), min(centre + 8, 32) - max(centre - 8, 0)) for centre in range(33)}
        assert ends == whole


def test_a_student_sees_normalized_images_through_it():
    """Each mini-batch by a kind of its own, in another way in each epoch, the same way from the same seed."""
    cpu, settings = torch.device("cpu"), Train(dsa=True, loss="cross-entropy")
    images, model = device_steps.make_images(10, cpu), device_steps.make_model()
    recipe = soft_labels.LabelRecipe(batch_size=4)
    rows = soft_labels.draw_epoch(recipe, 10, images.pixels.shape[2], len(images.classes), 0)

    def seen(epoch):
        found = []

        def step(pixels, *_):
            found.append(pixels)
            return [torch.zeros(())]

        given = {"rows": rows, "recipe": recipe, "distilled": images, "device": cpu}
        student.epoch_of(settings, model, step, **given, seed_key=(3, "student", epoch))
        return found

    mean, std = (numbers.view(1, 3, 1, 1) for numbers in (model.mean, model.std))
    kinds = set()
    for epoch in range(6):
        for number, (pixels, batch) in enumerate(zip(seen(epoch), soft_labels.batches_of(rows, 4))):
            kind, numbers = siamese.draw(generator(3, "student", epoch, number, "dsa"), len(batch))
            clean = (soft_labels.look(images, batch) - mean) / std
            torch.testing.assert_close((pixels - mean) / std, siamese.apply(clean, kind, numbers))
            kinds.add(kind)
    assert len(kinds) > 3
    first, same, other = torch.cat(seen(0)), torch.cat(seen(0)), torch.cat(seen(1))
    assert torch.equal(first, same) and not torch.equal(first, other)

"""RDED images: the easiest crops, by a naive loop over all of them."""

import dataclasses

import pytest
import torch
from conftest import command, pixel_model

from guard.data.images import Packed
from guard.distilled import image_folder
from guard.recipes import recipe
from guard.run import storage
from recover import rded
from recover.recovery import Request


@pytest.fixture
def request_for(network):
    draws = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (21, 3, 8, 8), generator=draws, dtype=torch.uint8)
    held = Packed(pixels, torch.arange(21) % 3, ("a", "b", "c"))

    def make(**changes):
        chosen = {
            "images_per_class": 2,
            "candidates": 6,
            "crops": 4,
            "stitch": 1,
            "pack_images": 5,
            **changes,
        }
        settings = dataclasses.replace(recipe("cifar10").recover, method="rded", **chosen)
        return Request(settings, pixel_model(network.float()), ["a", "b", "c"], 3, torch.device("cpu"), held)

    return make


class Bar:
    def step(self, **_):
        pass


def all_crops(request, part, monkeypatch):
    """Every set of crops that a part looked at, in order, and what it made."""
    seen, crops = [], rded._crops
    monkeypatch.setattr(rded, "_crops", lambda *given: seen.append(crops(*given)) or seen[-1])
    return seen, part.make(Bar())


@pytest.mark.parametrize("label", [0, 2])
def test_the_easiest_crop_of_the_easiest_images(label, request_for, monkeypatch):
    request = request_for()
    part = rded.plan(request).parts[label]
    seen, made = all_crops(request, part, monkeypatch)
    best = []
    for image in range(6):
        losses = []
        for crops in seen:
            with torch.no_grad():
                losses.append(-request.model(crops[image : image + 1]).log_softmax(1)[0, label].item())
        easiest = min(range(4), key=losses.__getitem__)
        best.append((losses[easiest], seen[easiest][image]))
    best.sort(key=lambda pair: pair[0])
    for number in range(2):
        torch.testing.assert_close(made.pixels[number], best[number][1], rtol=0, atol=1e-6)
        assert made.losses[number] == pytest.approx([best[number][0]], abs=1e-5)
    assert len(set(made.looked_at)) == 6 and all(number % 3 == label for number in made.looked_at)


def test_each_seed_and_each_class_has_draws_of_its_own(request_for):
    request = request_for()
    one, _, other = (part.make(Bar()) for part in rded.plan(request).parts)
    again = rded.plan(dataclasses.replace(request, seed=4)).parts[0].make(Bar())
    assert not torch.equal(one.pixels, again.pixels)
    assert [number // 3 for number in one.looked_at] != [number // 3 for number in other.looked_at]


def test_crops_are_as_large_as_asked_for(request_for, monkeypatch):
    """At the least share 1 of the area they are whole images."""
    request = request_for(crop_area=1.0)
    seen, made = all_crops(request, rded.plan(request).parts[1], monkeypatch)
    whole = request.training_images.pixels[torch.tensor(made.looked_at)] / 255
    for crops in seen:
        torch.testing.assert_close(crops, whole)


def test_the_loss_of_a_stitched_image_is_the_mean_of_its_crops(request_for, monkeypatch):
    request = request_for(images_per_class=1, stitch=2)
    seen, made = all_crops(request, rded.plan(request).parts[1], monkeypatch)
    with torch.no_grad():
        losses = torch.stack([-request.model(crops).log_softmax(1)[:, 1] for crops in seen])
    easiest = sorted(losses.amin(0).tolist())[:4]
    assert made.losses == [[pytest.approx(sum(easiest) / 4, abs=1e-5)]]


def test_crops_are_stitched_to_whole_images(request_for, monkeypatch):
    request = request_for(images_per_class=1, stitch=2)
    seen, made = all_crops(request, rded.plan(request).parts[1], monkeypatch)
    assert made.pixels.shape == (1, 3, 8, 8)
    shrunk = [
        torch.nn.functional.interpolate(crops, (4, 4), mode="bilinear", antialias=True) for crops in seen
    ]
    pool = torch.cat(shrunk)
    corners = [made.pixels[0, :, a : a + 4, b : b + 4] for a in (0, 4) for b in (0, 4)]
    found = [int((pool - corner).abs().amax((1, 2, 3)).argmin()) for corner in corners]
    for place, corner in zip(found, corners):
        torch.testing.assert_close(pool[place].clamp(0, 1), corner, rtol=0, atol=1e-6)
    assert len({place % 6 for place in found}) == 4  # of four different images


def test_a_folder_of_them_is_as_any_other(toy, tmp_path, refused):
    words = [
        "--dataset",
        "toy",
        "--root",
        toy,
        "--teacher",
        toy / "teacher/checkpoint.pt",
        "--method",
        "rded",
    ]
    words += ["--output", tmp_path / "images", "--images-per-class", 1, "--candidates", 5, "--crops", 2]
    assert command("recover", *words) == 0
    assert image_folder.load_distilled(tmp_path / "images").pixels.shape == (2, 3, 16, 16)
    manifest = storage.read_sealed(tmp_path / "images/manifest.json", "manifest")
    assert len(manifest["looked_at"]["0"]) == 5 and len(manifest["losses"]["1"]) == 1
    assert (
        command("recover", *words, "--iterations", 77) == 0
    )  # a setting of sre2l, which counts for nothing here
    assert "other crops;" in refused("recover", *words, "--crops", 3)
    assert "8 crops are needed for 2 images, of 5 training images" in refused(
        "recover", *words, "--images-per-class", 2, "--force"
    )

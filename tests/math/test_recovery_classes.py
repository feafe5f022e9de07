"""Whose class an image is recovered for, with several problems in a pack and several classes in a group."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import pixel_model

from guard.recipes import recipe
from recover import sre2l
from recover.recovery import Request

CPU = torch.device("cpu")
SETTINGS = dataclasses.replace(
    recipe("imagenette").recover,
    r_bn=0.3,
    roll=0,
    crop=False,
    images_per_class=3,
    pack_images=100,
    precision="fp32",
    graphs="off",
)


def test_the_cross_entropy_of_a_later_group_is_for_its_own_classes(network):
    model, settings = pixel_model(network), dataclasses.replace(SETTINGS, iterations=1)
    for problem in sre2l.problems_of(3, 2, classes_per_problem=2):
        _, losses = sre2l.recover_pack(settings, model, [problem], 7, CPU)
        wanted = F.cross_entropy(
            model.network(sre2l._noise(model, [problem], 7)), torch.tensor(problem.classes)
        )
        assert losses[0, 0].item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("group", [100, 2])
def test_each_image_lies_under_the_class_that_it_was_recovered_for(network, group):
    """Each is what its own problem alone makes of its class."""
    settings = dataclasses.replace(SETTINGS, iterations=5, classes_per_problem=group)
    request = Request(settings, pixel_model(network), ["a", "b", "c"], 7, CPU)
    silent, seen = SimpleNamespace(step=lambda **_: None), set()
    for part in sre2l.plan(request).parts:
        made = part.make(silent)
        for (label, number), pixels in zip(part.images, made.pixels, strict=True):
            first = label - label % group
            problem = sre2l.Problem(number, tuple(range(first, min(first + group, 3))))
            alone, _ = sre2l.recover_pack(settings, request.model, [problem], 7, CPU)
            torch.testing.assert_close(pixels, alone[0, label - first], rtol=0, atol=1e-9)
            seen.add((label, number))
    assert len(seen) == 9

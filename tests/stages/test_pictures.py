"""What is drawn of an experiment fits onto its picture."""

import pytest
import torch

from guard.data.images import Packed
from guard.report import pictures, plots
from guard.report.page import svg


@pytest.mark.parametrize("per_class", [1, 2, 10, 12])
@pytest.mark.parametrize("names", [10, 100])
@pytest.mark.parametrize("name", ["{}", "n014407{:02}", "a class with a long name {}"])
def test_names_and_title_of_the_grid_are_not_cut_off(per_class, names, name, tmp_path, monkeypatch):
    drawn = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: (save(figure, path), drawn.append(figure)))
    classes = tuple(name.format(label) for label in range(names))
    pixels = torch.zeros(names * per_class, 3, 8, 8, dtype=torch.uint8)
    held = Packed(pixels, torch.arange(names).repeat_interleave(per_class), classes)
    pictures.image_grid(held, tmp_path / "images.png")
    (figure,) = drawn
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    assert (tmp_path / "images.png").stat().st_size


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["cash_$1_$", "$_$", "猫"])
def test_classes_of_any_name_stand_beside_their_images(name, tmp_path):
    held = Packed(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2), (name, "dog"))
    pictures.image_grid(held, tmp_path / "images.png")
    assert (tmp_path / "images.png").exists()


def test_no_epoch_lies_between_two(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    history = [{"epoch": 1, "loss": 2.0, "val accuracy": 10.0}, {"epoch": 2, "loss": 1.0}]
    pictures.curves({"teacher": history}, tmp_path / "curves.png")
    axes = drawn[0].axes[0]
    assert all(place == int(place) for place in axes.get_xticks())
    assert svg.ticks(1, 2) == [1, 2] and svg.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert svg.ticks(1.0, 2.0)[1] == pytest.approx(1.2)

"""What is drawn of an experiment fits onto its picture."""

import pytest
import torch

from guard.data.images import Packed
from guard.report import pictures, plots


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

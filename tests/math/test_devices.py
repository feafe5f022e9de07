"""Each kind of step, on each device of this machine: what the CPU gives, and the same again.

tests/math/test_one_device.py does this on a stand-in for a GPU; here a GPU runs it where there is one.
"""

import numpy
import pytest
import torch

from guard.bench import doctor, exactness, health
from guard.registry import ATTACKS
from tests import device_steps

CPU = torch.device("cpu")


def numbers(found):
    """What a work of tests/device_steps.py gives, as one array of float64."""
    if isinstance(found, torch.Tensor):
        return found.detach().double().cpu().flatten().numpy()
    if isinstance(found, numpy.ndarray):  # rows of labels
        return found["logits"].astype(numpy.float64).flatten()
    if isinstance(found, dict):
        found = [value for value in found.values() if value is not None]
    if isinstance(found, tuple | list):
        return numpy.concatenate([numbers(each) for each in found])
    return numpy.array([float(found)])


WORKS = {
    **{
        kind: (device_steps.train_teacher, {"steps": 2, **row}) for kind, row in device_steps.TEACHERS.items()
    },
    **{
        kind: (device_steps.recover_images, {"iterations": 5, **row})
        for kind, row in device_steps.RECOVERIES.items()
    },
    **{kind: (device_steps.label_images, {"steps": 5, **row}) for kind, row in device_steps.LABELS.items()},
    **{
        kind: (device_steps.train_student, {"steps": 5, **row}) for kind, row in device_steps.STUDENTS.items()
    },
    "curvature": (device_steps.measure_curvature, {}),
    "watched teacher": (device_steps.watch_teacher, {"epsilon": 0.05}),
    "many sizes": (device_steps.see_many_sizes, {}),
}


# A GPU draws its own noise for these.
DRAWN_THERE = ("teacher, adversarial t", "teacher, adversarial n", "student, adversarial views")


@pytest.mark.parametrize("kind", WORKS)
def test_a_step_gives_what_the_cpu_gives_and_the_same_again(kind, device):
    work, given = WORKS[kind]
    here = numbers(work(device_steps.make_model(), CPU, **given))
    there, again = (numbers(work(device_steps.make_model().to(device), device, **given)) for _ in range(2))
    assert numpy.array_equal(there, again) and numpy.isfinite(there).all() and len(there)
    if device == CPU or kind not in DRAWN_THERE:
        # Pixels of many sizes are rounded to 8 bits on the CPU.
        numpy.testing.assert_allclose(there, here, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("name", device_steps.ATTACK_NAMES)
def test_an_attack_finds_what_it_finds_on_the_cpu(name, device):
    given = {"steps": 20, "epsilon": 0.7}
    _, here = device_steps.attack_images(name, device_steps.make_model(), CPU, **given)
    images, there = device_steps.attack_images(name, device_steps.make_model().to(device), device, **given)
    assert images.device == there.device == device
    assert torch.equal(there.cpu(), here)
    if ATTACKS[name].norm == "L-inf" and name != "square":  # for which so few queries are not enough
        assert here.any(), "no image falls, so little was tested"


@pytest.mark.parametrize("check", health.CHECKS, ids=lambda check: check.__name__)
def test_the_doctor_finds_nothing(check, device, monkeypatch):
    if device == CPU:
        monkeypatch.setattr(exactness, "NETWORKS", ("convnet-32",))
        monkeypatch.setattr(health, "ATTACKS", ("pgd20",))
    rows = list(check(device))
    assert rows and not doctor.failed(rows)
    if device != CPU:
        assert all(row["passed"] is not None for row in rows)

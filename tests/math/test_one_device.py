"""Every op sees one device, and what a step asks of it is counted, on a stand-in for a GPU.

The stand-in is tests/instrument.py, the work tests/device_steps.py.
"""

import dataclasses
import functools
import json

import pytest
import torch

from guard.attacks import ATTACKS
from guard.data import augment
from guard.distilled import soft_labels
from guard.run import devices
from tests import device_steps
from tests.instrument import CPU, GPU, Counts, Generator, Instrument, Mixed, OnDevice, held, on_device

# ---- the instrument itself -----------------------------------------------------------------------


@pytest.fixture
def instrument():
    with Instrument() as made:
        yield made


ON_CPU = torch.arange(6.0).view(2, 3)
MISTAKES = {
    "an op": lambda there: there + ON_CPU,
    "an op with a constant that is none": lambda there: there * torch.ones(1),
    "a product": lambda there: ON_CPU @ there.T,
    "a list": lambda there: torch.cat([there, ON_CPU]),
    "an op in place": lambda there: ON_CPU.clone().add_(there),
    "an index": lambda there: there[torch.tensor([1, 0])],
    "an index into the CPU": lambda there: ON_CPU[torch.tensor([1, 0]).to(GPU)],
    "a mask": lambda there: there[ON_CPU > 2],
    "a value at a mask": lambda there: there.__setitem__(there > 2, ON_CPU[0]),
    "a generator of the CPU": lambda there: torch.rand(2, generator=torch.Generator(), device=GPU),
    "a generator of the CPU, in place": lambda there: there.uniform_(generator=torch.Generator()),
    "a generator of the device": lambda there: torch.rand(2, generator=torch.Generator(device="cuda")),
    "a silent copy to the device": lambda there: there.__setitem__(slice(0, 2), ON_CPU),
    "a silent copy to the CPU": lambda there: ON_CPU.clone().__setitem__(slice(0, 2), there),
    "a backward pass": lambda there: torch.autograd.grad(there.requires_grad_().square(), there, ON_CPU),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_deliberate_mistake_is_caught(mistake, instrument):
    there = on_device(ON_CPU)
    with pytest.raises(Mixed):
        MISTAKES[mistake](there)


def test_numpy_cannot_look_at_the_device(instrument):
    for look in (lambda there: there.numpy(), lambda there: __import__("numpy").asarray(there)):
        with pytest.raises(TypeError):
            look(on_device(ON_CPU))


ALLOWED = {
    "a constant": lambda there: there + torch.tensor(2.0),
    "a number": lambda there: torch.where(there > 2, there, 0),
    "a copy by name": lambda there: there.copy_(ON_CPU),
    "an index of the device": lambda there: there[torch.tensor([1, 0]).to(GPU)],
    "a generator of the device": lambda there: there.uniform_(generator=torch.Generator(device="cuda")),
    "a tensor made there": lambda there: there + torch.ones(3, device="cuda:0"),
    "numbers": lambda there: there + torch.tensor([1.0, 2.0, 3.0], device=GPU),
    "its like": lambda there: there + torch.zeros_like(there) + there.new_tensor([1.0, 2.0, 3.0]),
    "another's device": lambda there: there + ON_CPU.to(there),
    "cuda": lambda there: there + ON_CPU.cuda(),
}


@pytest.mark.parametrize("right", ALLOWED)
def test_what_a_gpu_would_do_is_done(right, instrument):
    result = ALLOWED[right](on_device(ON_CPU))
    assert isinstance(result, OnDevice) and result.device == GPU


def counted(work):
    """(ops, views, reads, copies, copied) of `work`(tensor of the device)."""
    with Instrument() as instrument:
        there = on_device(ON_CPU)
        with instrument.counting() as counts:
            work(there)
    return dataclasses.astuple(counts)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda there: there + 1, (1, 0, 0, 0, 0)),
        (lambda there: there.view(3, 2)[0], (2, 2, 0, 0, 0)),
        (lambda there: there.sum().item(), (2, 0, 1, 0, 0)),
        (lambda there: bool(there.any()), (2, 0, 1, 0, 0)),
        (lambda there: float(there[0, 0]), (3, 2, 1, 0, 0)),
        (lambda there: there.nonzero(), (1, 0, 1, 0, 0)),
        (lambda there: there[there > 2], (2, 0, 1, 0, 0)),
        (lambda there: there.__setitem__(there > 2, torch.tensor(0.0)), (2, 0, 0, 0, 0)),
        (lambda there: torch.equal(there, there), (1, 0, 1, 0, 0)),
        (lambda there: there.tolist(), (0, 0, 1, 0, 0)),
        (lambda there: there.cpu().numpy(), (0, 0, 1, 0, 0)),
        (lambda there: repr(there), (0, 0, 1, 0, 0)),
        (lambda there: f"{there.sum():.3g}", (2, 0, 1, 0, 0)),
        (lambda there: ON_CPU.to(GPU, non_blocking=True), (0, 0, 0, 1, 24)),
        (lambda there: torch.tensor([1, 2], device=GPU), (0, 0, 0, 1, 16)),
        (lambda there: there.copy_(ON_CPU), (0, 0, 0, 1, 24)),
    ],
    ids=range(16),
)
def test_ops_reads_and_copies_are_counted(work, expected):
    assert counted(work) == expected


def test_counts_within_counts_add_up():
    with Instrument() as instrument:
        there = on_device(ON_CPU)
        with instrument.counting() as outer:
            there.sum().item()
            with instrument.counting() as inner:
                there.tolist()
            assert there.device == GPU
    assert (inner.reads, outer.reads) == (1, 2)
    assert outer.beyond(inner) == Counts(ops=2, reads=1)


def test_outside_of_the_instrument_the_stand_in_refuses_and_torch_is_as_before():
    before = torch.Generator, torch.autocast, torch.cuda.mem_get_info
    with Instrument():
        there = on_device(ON_CPU)
        assert torch.Generator is Generator
    assert before == (torch.Generator, torch.autocast, torch.cuda.mem_get_info)
    with pytest.raises(Mixed):
        there + 1


# ---- the project's work --------------------------------------------------------------------------


def of_both_devices(work, **given):
    """(what `work` gives on the stand-in, on the CPU), each with a model of its own."""
    with Instrument():
        there = work(device_steps.make_model().to(GPU), GPU, **given)
    return there, work(device_steps.make_model(), CPU, **given)


def assert_same(there, here):
    if isinstance(here, torch.Tensor):
        assert isinstance(there, OnDevice)
        assert torch.equal(held(there), here)
    elif isinstance(here, tuple):
        for one, other in zip(there, here, strict=True):
            assert_same(one, other)
    else:
        assert there == pytest.approx(here, rel=1e-5)


DRAWN_THERE = ("teacher, adversarial t", "teacher, adversarial n", "student, adversarial views")
COMPUTED = {
    kind: (work, {count: steps, **given})
    for kinds, work, count, steps in (
        (device_steps.TEACHERS, device_steps.train_teacher, "steps", 2),
        (device_steps.RECOVERIES, device_steps.recover_images, "iterations", 3),
        (device_steps.LABELS, device_steps.label_images, "steps", 2),
        (device_steps.STUDENTS, device_steps.train_student, "steps", 2),
    )
    for kind, given in kinds.items()
    if kind not in DRAWN_THERE  # a device draws its own noise for these
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_the_stand_in_computes_what_the_cpu_computes(kind):
    work, given = COMPUTED[kind]
    there, here = of_both_devices(work, **given)
    if kind in device_steps.LABELS:
        assert (there == here).all()
    else:
        assert_same(there, here)


@pytest.mark.parametrize("name", device_steps.ATTACK_NAMES)
def test_attacks_find_on_the_device_what_they_find_on_the_cpu(name):
    work = functools.partial(device_steps.attack_images, name)
    found = of_both_devices(work, steps=40, epsilon=0.7)
    assert_same(*found)
    if ATTACKS[name].norm == "L-inf" and name != "square":  # for which 40 queries are few
        assert found[1][1].any(), "no image falls, so little was tested"


def test_evaluation_sees_one_device():
    names = ["pgd100", "pgd100-l2", "mim", "cw", "fab", "autoattack"]
    quick = {
        name: row._replace(
            settings={
                key: 3 if key in ("steps", "queries", "targets") else value
                for key, value in row.settings.items()
            }
        )
        for name, row in ATTACKS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, row in quick.items():
            patch.setitem(ATTACKS, name, row)
        results = of_both_devices(device_steps.evaluate_model, names=names, epsilon=0.02)
    there, here = ({name: result["broken"] for name, result in found["attacks"].items()} for found in results)
    assert there == here and set(there) == {"clean", *names}


def test_curvature_sees_one_device():
    assert_same(*of_both_devices(device_steps.measure_curvature))


def noise_of_the_cpu(images, positions, draws):
    return torch.zeros(images.shape)


# What forgets to go to the device -> (the function in its place, the work that is to notice).
FORGOTTEN = {
    **{
        f"guard.run.devices.sent, {stage}": (lambda tensors, device: tensors, work)
        for stage, work in {
            "recover": functools.partial(device_steps.recover_images, iterations=1),
            "teacher": functools.partial(device_steps.train_teacher, steps=1),
            "labels": functools.partial(device_steps.label_images, steps=1),
            "student": functools.partial(device_steps.train_student, steps=1),
        }.items()
    },
    "guard.attacks.gradient_signs.uniform_noise": (
        noise_of_the_cpu,
        functools.partial(device_steps.evaluate_model, names=["pgd20"], epsilon=0.02),
    ),
    "guard.method.curvature.normalized": (
        lambda gradient: torch.ones(gradient.shape),
        device_steps.measure_curvature,
    ),
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_stage_that_forgets_the_device_is_caught(name, monkeypatch):
    instead, work = FORGOTTEN[name]
    monkeypatch.setattr(name.split(",")[0], instead)
    with Instrument(), pytest.raises(Mixed):
        work(device_steps.make_model().to(GPU), GPU)


def test_rded_and_its_use_as_a_start_see_one_device():
    there, here = of_both_devices(device_steps.start_from_crops)
    assert there.looked_at == here.looked_at
    for one, other in zip(there.losses, here.losses, strict=True):
        assert_same(tuple(one), tuple(other))


def test_an_overfitting_teacher_is_watched_on_one_device():
    assert_same(*of_both_devices(device_steps.watch_teacher, epsilon=0.05))


@pytest.mark.parametrize("fits", [True, False])
def test_images_of_many_sizes_see_one_device(fits, monkeypatch):
    """On the CPU they are seen one by one, in bytes. On a GPU they lie there where it has room."""
    with Instrument() as instrument:
        if not fits:
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 0))
        there, labels = device_steps.see_many_sizes(None, GPU)
        mapped, chosen = device_steps.make_images_of_many_sizes().to(GPU), torch.tensor([2, 0, 2])
        assert (mapped.pixels.device == GPU) == fits
        with instrument.counting() as counts:
            draw = functools.partial(augment.draw_views, torch.Generator().manual_seed(0), "resized-crop")
            mapped.labelled_views(chosen, draw, device_steps.SIZE)
        assert (counts.reads, counts.copies) == (0, 1)
    here, own_labels = device_steps.see_many_sizes(None, CPU)
    torch.testing.assert_close(held(there), here, rtol=0, atol=1.01 / 255)
    assert_same(labels, own_labels)


@pytest.mark.parametrize("work", ["train_teacher", "train_student"])
def test_bfloat16_sees_one_device(work):
    with Instrument() as instrument:
        model = device_steps.make_model().to(GPU)
        getattr(device_steps, work)(model, GPU, steps=2, precision="bf16")
        with devices.computing("bf16", GPU):
            assert model(torch.zeros(2, 3, device_steps.SIZE, device_steps.SIZE, device=GPU)).dtype == (
                torch.bfloat16
            )
    assert any("convolution" in name for name in instrument.names)


def test_what_is_sent_together_arrives_as_it_was():
    sent = [
        torch.arange(5),
        torch.tensor([True, False, True]),
        torch.rand(2, 3).T,
        torch.tensor(7, dtype=torch.uint8),
        torch.rand(3, dtype=torch.float64),
        torch.zeros(0, 3),
        torch.tensor([[-1.5], [2.5]], dtype=torch.float16),
        torch.tensor(-3),
    ]
    with Instrument() as instrument, instrument.counting() as counts:
        arrived = devices.sent(sent, GPU)
    assert counts.copies == 1 and counts.reads == 0
    for here, there in zip(sent, arrived, strict=True):
        assert isinstance(there, OnDevice) and there.dtype == here.dtype
        assert torch.equal(held(there), here)
    assert devices.sent(sent, CPU) is sent


def test_images_that_the_device_has_no_memory_for_are_seen_there(monkeypatch):
    """Their pixels stay on the CPU, and what is seen of them goes to the device."""
    labelled, images = {}, device_steps.make_images(4, CPU)
    recipe = device_steps.LabelRecipe(batch_size=2, precision="fp32")
    for device in (GPU, CPU):
        with Instrument():
            model = device_steps.make_model().to(device)
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 0))
            packed = images.to(device)
            assert packed.pixels.device == CPU and packed.device == device
            labelled[device] = soft_labels.make_epoch(model, packed, recipe, 0)
    assert (labelled[CPU] == labelled[GPU]).all()


# ---- bounds --------------------------------------------------------------------------------------

KINDS = device_steps.KINDS
recorded = functools.cache(lambda: json.loads(device_steps.TABLE.read_text()))
step_of = functools.cache(device_steps.step_of)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_for_nothing_and_sends_one_small_copy(kind):
    """An attack reads once which images have fallen."""
    counts = step_of(kind)
    assert counts.reads <= int(kind.startswith("attack "))
    assert counts.copies <= 1


@pytest.mark.parametrize("name", ["pgd100", "apgd-ce", "mim"])
def test_an_image_that_falls_is_not_read_apart(name):
    """Apart from the steps it is read who enters, and which are the targets."""
    steps, around = 40, 6
    with Instrument() as instrument:
        model = device_steps.make_model().to(GPU)
        with instrument.counting() as counts:
            _, broken = device_steps.attack_images(name, model, GPU, steps=steps, epsilon=0.7)
        assert broken.any()
    assert counts.reads <= steps + 1 + around


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_of_this_code(kind):
    counts, noted = dataclasses.asdict(step_of(kind)), recorded()[kind]
    assert (counts["reads"], counts["copies"]) == (noted["reads"], noted["copies"]), STALE
    assert counts["ops"] == pytest.approx(noted["ops"], rel=0.1), STALE  # versions of torch differ a little


STALE = "results/ops.json is stale; run python -m tests.device_steps and commit it"


def test_the_table_has_all_kinds_and_no_other():
    assert list(recorded()) == ["network", *KINDS]


ADDED = 40  # of which each of the three batch norms has three


@pytest.mark.parametrize("kind", device_steps.RECOVERIES)
def test_what_recovery_adds_to_the_network(kind):
    """Operations that do something, in an iteration beyond the network's own forward and backward."""
    whole, own = step_of(kind), device_steps.network_counts()
    added = (whole.ops - whole.views) - (own.ops - own.views)
    assert 0 < added <= ADDED

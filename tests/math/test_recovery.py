"""Recovery against the naive loop, one problem at a time, in float64."""

import dataclasses
import itertools
import shutil

import numpy
import pytest
import torch
from conftest import pixel_model
from PIL import Image

from guard.bench import reference
from guard.distilled import image_folder
from guard.errors import UserError
from guard.method.batch_statistics import BatchStatistics
from guard.recipes import recipe
from guard.run import records, storage
from guard.run.seeds import generator
from recover import recovery, sre2l

SETTINGS = dataclasses.replace(
    recipe("imagenette").recover, iterations=12, r_bn=0.3, roll=2, images_per_class=3
)


def test_statistics_are_of_each_layers_input_with_biased_variance(network, batch):
    network.eval()
    x = torch.cat([batch[0], 2 * batch[0] - 1])
    with BatchStatistics(network, problems=2, first_layer_weight=10.0) as statistics:
        network(x)
        found = statistics.loss()
    expected = torch.stack([reference.batch_norm_loss(network, part) for part in x.split(5)])
    torch.testing.assert_close(found, expected.view(2), rtol=1e-10, atol=0)
    assert not any(module._forward_pre_hooks for module in network.modules())


class Uneven(torch.nn.Module):
    """Layers of 3, 5 and 2 channels at two sizes, of which the second runs twice."""

    def __init__(self):
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(width) for width in (3, 5, 2))
        for norm in self.norms:
            torch.nn.init.uniform_(norm.running_mean, -1, 1)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        self.wide, self.same = torch.nn.Conv2d(3, 5, 3, stride=2), torch.nn.Conv2d(5, 5, 1)
        self.narrow = torch.nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = self.norms[1](self.wide(self.norms[0](x)).tanh())
        return self.norms[2](self.narrow(self.norms[1](self.same(x)).tanh()))


def distances_by_hand(model, x, problems, first_layer_weight):
    """The sum of the distances of all problems, by torch's own operations and derivatives."""
    total = []

    def note(norm, inputs):
        weight = 1.0 if total else first_layer_weight
        distance = 0
        for part in inputs[0].chunk(problems):
            distance = distance + (part.mean((0, 2, 3)) - norm.running_mean).norm()
            distance = distance + (part.var((0, 2, 3), correction=0) - norm.running_var).norm()
        total.append(weight * distance)

    hooks = [norm.register_forward_pre_hook(note) for norm in model.norms]
    output = model(x)
    for hook in hooks:
        hook.remove()
    return sum(total), output


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_derivative_of_the_distance_is_that_of_autograd_and_of_differences(layout):
    torch.manual_seed(0)
    model = Uneven().double().eval()
    x = torch.rand(6, 3, 7, 7, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    by_distance = torch.tensor([0.3, 0.3], dtype=torch.float64)
    with BatchStatistics(model, problems=2, first_layer_weight=10.0) as statistics:

        def distances(x):
            model(x)
            return statistics.loss()

        output = model(x)
        (mine,) = torch.autograd.grad((statistics.loss(), output), x, (by_distance, torch.ones_like(output)))
        assert torch.autograd.gradcheck(distances, x)
    expected, output = distances_by_hand(model, x, 2, 10.0)
    (by_hand,) = torch.autograd.grad(0.3 * expected + output.sum(), x)
    torch.testing.assert_close(mine, by_hand, rtol=1e-10, atol=1e-12)


def test_statistics_that_are_nearly_met_still_pull_with_full_strength():
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(3).double().eval()
    x = torch.rand(4, 3, 5, 5, dtype=torch.float64)
    norm.running_mean, norm.running_var = x.mean((0, 2, 3)) + 1e-8, x.var((0, 2, 3), correction=0) - 1e-8
    x.requires_grad_()
    with BatchStatistics(norm, problems=1, first_layer_weight=1.0) as statistics:
        norm(x)
        (found,) = torch.autograd.grad(statistics.loss().sum(), x)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    expected = (mean - norm.running_mean).norm() + (variance - norm.running_var).norm()
    torch.testing.assert_close(found, torch.autograd.grad(expected, x)[0], rtol=1e-5, atol=1e-9)


def test_statistics_that_are_met_exactly_pull_nowhere():
    norm = torch.nn.BatchNorm2d(3).eval()
    x = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2).clone().requires_grad_()
    with BatchStatistics(norm, problems=1, first_layer_weight=10.0) as statistics:
        norm(x)  # mean 0 and variance 1, as the running ones
        loss = statistics.loss()
    assert loss.item() == 0
    assert not torch.autograd.grad(loss.sum(), x)[0].any()


def test_in_bfloat16_the_statistics_are_of_float32():
    """What is widened gives the same statistics, and the gradient is rounded once."""
    norm = torch.nn.BatchNorm2d(3).eval()
    x = (3 * torch.rand(8, 3, 5, 5) + 100).bfloat16().requires_grad_()
    with BatchStatistics(norm, problems=2, first_layer_weight=1.0) as statistics:
        norm(x)
        narrow = statistics.loss()
        wide_x = x.detach().float().requires_grad_()
        norm(wide_x)
        wide = statistics.loss()
    assert torch.equal(narrow, wide)
    (by_narrow,), (by_wide,) = (
        torch.autograd.grad(loss.sum(), at) for loss, at in ((narrow, x), (wide, wide_x))
    )
    assert by_narrow.dtype == torch.bfloat16 and torch.equal(by_narrow, by_wide.bfloat16())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop": False, "crop_scale": 0.4},
        {"cda": True, "cda_milestone": 0.5},
        {"crop": False, "cda": True, "crop_scale": 0.4, "cda_schedule": "linear"},
    ],
)
def test_packed_problems_equal_the_naive_loop_one_by_one(changes, network):
    settings, model, seed = dataclasses.replace(SETTINGS, **changes), pixel_model(network), 7
    problems = sre2l.problems_of(3, 3, classes_per_problem=100)
    packed, _ = sre2l.recover_pack(settings, model, problems, seed, torch.device("cpu"))
    for problem, found in zip(problems, packed):
        alone, _ = sre2l.recover_pack(settings, model, [problem], seed, torch.device("cpu"))
        torch.testing.assert_close(found, alone[0], rtol=0, atol=1e-9)
        views, rolls = sre2l.draw_views(settings, problem, seed, 8)
        uncropped = not (settings.crop or settings.cda)
        plan = [
            (None if uncropped else tuple(box), bool(flip), tuple(roll))
            for box, flip, roll in zip(views.boxes.tolist(), views.flips, rolls.tolist())
        ]
        noise = torch.randn(3, 3, 8, 8, generator=generator(*problem.key(seed), "noise"), dtype=torch.float64)
        mean, std = model.mean.flatten(), model.std.flatten()
        naively = reference.recover(
            model.network, torch.arange(3), noise, plan, mean, std, settings.r_bn, settings.step_size
        )
        torch.testing.assert_close(model.normalize(found), naively, rtol=0, atol=1e-6)
    assert not torch.equal(packed[0], packed[1]) and 0 <= packed.min() and packed.max() <= 1


def test_views_are_drawn_as_the_settings_say():
    """Rolls of 0 to `roll` pixels, half of all views flipped, crops of at least `crop_scale` of the area."""
    settings = dataclasses.replace(SETTINGS, iterations=2000, crop=True, crop_scale=0.3)
    views, rolls = sre2l.draw_views(settings, sre2l.Problem(0, (0,)), 7, 64)
    assert rolls.shape == (2000, 2) and set(rolls.flatten().tolist()) == {0, 1, 2}
    assert abs(torch.corrcoef(rolls.T.double())[0, 1].item()) < 0.1  # rows and columns are drawn apart
    assert 0.45 < views.flips.double().mean() < 0.55
    areas = views.boxes[:, 2] * views.boxes[:, 3] / 64**2
    assert 0.28 < areas.min() < 0.34 and areas.max() > 0.96
    unmirrored = sre2l.draw_views(dataclasses.replace(settings, flip=False), sre2l.Problem(0, (0,)), 7, 64)[0]
    assert not unmirrored.flips.any() and torch.equal(unmirrored.boxes, views.boxes)
    curriculum = dataclasses.replace(settings, cda=True, cda_milestone=0.5, cda_schedule="step")
    boxes = sre2l.draw_views(curriculum, sre2l.Problem(0, (0,)), 7, 64)[0].boxes
    areas = boxes[:, 2] * boxes[:, 3] / 64**2
    assert areas[:1000].min() > 0.7 and 0.28 < areas[1000:].min() < 0.34


def test_every_image_starts_from_noise_of_its_own(network):
    problems = sre2l.problems_of(4, 2, classes_per_problem=2)
    noise = sre2l._noise(pixel_model(network), problems, 7)
    assert len(noise) == 8 and all(not torch.equal(*pair) for pair in itertools.combinations(noise, 2))


def test_the_losses_are_the_cross_entropy_and_the_batch_norm_loss(network):
    """Of a single iteration, which sees the noise itself."""
    settings = dataclasses.replace(SETTINGS, iterations=1, crop=False, roll=0)
    model, problem = pixel_model(network), sre2l.Problem(0, (0, 1, 2))
    _, losses = sre2l.recover_pack(settings, model, [problem], 7, torch.device("cpu"))
    noise = sre2l._noise(model, [problem], 7)
    cross_entropy = torch.nn.functional.cross_entropy(model.network(noise), torch.arange(3))
    expected = [cross_entropy.item(), reference.batch_norm_loss(model.network, noise).item()]
    assert losses[0].tolist() == pytest.approx(expected)


def test_float64_recovery_depends_on_noise_views_and_seed(network):
    model, problem = pixel_model(network), sre2l.Problem(0, (0, 1, 2))
    one = sre2l.recover_pack(SETTINGS, model, [problem], 7, torch.device("cpu"))[0]
    assert torch.equal(one, sre2l.recover_pack(SETTINGS, model, [problem], 7, torch.device("cpu"))[0])
    assert not torch.equal(one, sre2l.recover_pack(SETTINGS, model, [problem], 8, torch.device("cpu"))[0])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step"])
@pytest.mark.parametrize("milestone", [1.0, 0.5, 0.1])
def test_cdas_schedule_is_the_naive_one(schedule, milestone):
    found = [
        sre2l.crop_scale_at(t, 40, schedule=schedule, milestone=milestone, lowest=0.08) for t in range(40)
    ]
    assert found == pytest.approx(
        [reference.crop_scale_lower_bound(t, 40, schedule, milestone, 0.08) for t in range(40)]
    )
    assert found[0] == 1.0 and all(a >= b for a, b in itertools.pairwise(found))


def test_packs_depend_on_the_recipe_alone():
    packs = sre2l.packs_of(sre2l.problems_of(10, 12, 100), 100)
    assert [len(pack) for pack in packs] == [10, 2] and all(
        problem.classes == tuple(range(10)) for pack in packs for problem in pack
    )
    many = sre2l.packs_of(sre2l.problems_of(250, 2, 100), 100)
    assert [[len(problem.classes) for problem in pack] for pack in many] == [
        [100],
        [100],
        [50],
        [100],
        [100],
        [50],
    ]
    covered = sorted(
        (problem.number, label) for pack in many for problem in pack for label in problem.classes
    )
    assert covered == [(number, label) for number in range(2) for label in range(250)]


def test_no_batch_norm_is_refused_before_any_work(network):
    with pytest.raises(UserError, match="no batch norm"):
        BatchStatistics(torch.nn.Linear(3, 3), 1, 10.0)


@pytest.mark.parametrize(
    "name, kind, values, expected",
    [
        ("image.png", "PNG", [0.0, 127.6 / 255, 1.0], [0, 128, 255]),
        ("image.jpg", "JPEG", [127.6 / 255] * 3, [127] * 3),  # grey, which JPEG keeps
    ],
)
def test_saved_pixels_are_rounded_in_png_and_truncated_in_jpeg(name, kind, values, expected, tmp_path):
    image_folder.write_image(torch.tensor(values).view(3, 1, 1).expand(3, 8, 8), tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.format == kind and numpy.asarray(image)[0, 0].tolist() == expected


def test_manifest_names_every_file_and_its_bytes(toy):
    manifest = storage.read_sealed(toy / "images" / "manifest.json", "manifest")
    from guard.networks.checkpoint import load
    from guard.run.fingerprints import of_file

    assert manifest["complete"] and len(manifest["files"]) == 4 and manifest["classes"] == ["cat", "dog"]
    assert all(of_file(toy / "images" / name) == digest for name, digest in manifest["files"].items())
    assert manifest["teacher"] == load(toy / "teacher" / "checkpoint.pt").fingerprint


def test_classes_are_numbered_as_in_the_manifest(toy, tmp_path):
    """By which the teacher numbers them, whatever the order of the folders is."""
    shutil.copytree(toy / "images", tmp_path / "images")
    path = tmp_path / "images" / "manifest.json"
    storage.write_sealed({**storage.read_sealed(path, "manifest"), "classes": ["dog", "cat"]}, path)
    found, before = (image_folder.load_distilled(root / "images") for root in (tmp_path, toy))
    assert (before.classes, before.labels.tolist()) == (("cat", "dog"), [0, 0, 1, 1])
    assert (found.classes, found.labels.tolist()) == (("dog", "cat"), [1, 1, 0, 0])
    assert torch.equal(found.pixels, before.pixels)


def test_the_record_holds_the_mean_losses_of_all_images(toy):
    losses = storage.read_sealed(toy / "images" / "manifest.json", "manifest")["losses"]
    rows = [row for part in losses.values() for row in part]
    results = records.read(toy / "images" / "log.json")["recover"]["results"]
    for place, name in enumerate(("cross-entropy", "batch-norm loss")):
        assert results[name] == pytest.approx(sum(row[place] for row in rows) / len(rows))


def test_force_starts_again_whatever_the_manifest_was(toy, tmp_path, refused):
    from conftest import TOY, command

    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "manifest.json").write_text("{")
    arguments = [
        "recover",
        "--teacher",
        toy / "teacher" / "checkpoint.pt",
        "--output",
        tmp_path / "images",
        *TOY["recover"],
        "--pack-images",
        0,
    ]
    assert "manifest.json" in refused(*arguments)
    assert command(*arguments, "--force") == 0
    manifest = tmp_path / "images" / "manifest.json"
    assert (
        storage.read_sealed(manifest, "manifest")["settings"]["pack_images"] == 100
    )  # as many as the memory holds, on the CPU at most 100


def test_a_folder_goes_on_with_the_packs_that_it_was_begun_with(toy, tmp_path, monkeypatch):
    from conftest import TOY, command

    arguments = [
        "recover",
        "--teacher",
        toy / "teacher" / "checkpoint.pt",
        "--output",
        tmp_path / "images",
        *TOY["recover"],
        "--pack-images",
        0,
    ]
    assert command(*arguments) == 0
    (tmp_path / "images" / "cat" / "cat_0.png").unlink()
    monkeypatch.setattr(recovery.memory, "images_that_fit", lambda *_, **__: 1)  # a machine with less memory
    assert command(*arguments) == 0 and (tmp_path / "images" / "cat" / "cat_0.png").exists()


def test_an_image_that_was_half_written_when_its_process_was_killed_does_not_stay(toy, tmp_path):
    from conftest import TOY, command

    shutil.copytree(toy / "images", tmp_path / "images")
    (tmp_path / "images" / "cat" / "cat_0.png").rename(tmp_path / "images" / "cat" / ".cat_0.png.77.part")
    assert (
        command(
            "recover",
            "--teacher",
            toy / "teacher" / "checkpoint.pt",
            "--output",
            tmp_path / "images",
            *TOY["recover"],
        )
        == 0
    )
    assert {path.name for path in (tmp_path / "images" / "cat").iterdir()} == {"cat_0.png", "cat_1.png"}


def test_recovery_works_for_other_networks_with_batch_norm(toy, tmp_path):
    from conftest import TOY, command

    teacher = tmp_path / "teacher"
    plain = [
        *TOY["pretrain"][2:],
        "--model",
        "resnet18",
        "--image-size",
        "32",
        "--stem",
        "cifar",
        "--epochs",
        "1",
    ]
    assert command("pretrain", "--dataset", "toy", "--root", toy, "--output", teacher, *plain) == 0
    assert (
        command(
            "recover",
            "--teacher",
            teacher / "checkpoint.pt",
            "--output",
            tmp_path / "images",
            "--iterations",
            2,
            "--images-per-class",
            1,
            "--cda",
        )
        == 0
    )
    assert len(list((tmp_path / "images").glob("*/*.png"))) == 2


def test_an_image_damaged_before_the_recovery_was_finished_is_named(toy, tmp_path, refused):
    """Its pack is not made again, as its images are all there, but nobody vouches for it either."""
    from conftest import TOY, command

    folder = tmp_path / "images"
    arguments = [
        "recover",
        "--teacher",
        toy / "teacher" / "checkpoint.pt",
        "--output",
        folder,
        *TOY["recover"],
    ]
    stop = recovery._finish
    try:
        recovery._finish = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        assert command(*arguments) == 130
    finally:
        recovery._finish = stop
    whole = (folder / "cat" / "cat_1.png").read_bytes()
    (folder / "cat" / "cat_1.png").write_bytes(whole[:-1] + b"x")
    assert "cat_1.png is not as it was made" in refused(*arguments)
    (folder / "cat" / "cat_1.png").unlink()
    assert command(*arguments) == 0 and (folder / "cat" / "cat_1.png").read_bytes() == whole
    assert not list(folder.glob(".part*"))


@pytest.mark.parametrize("numbers", [2**24, 2 * 3 * 8**2 * 5])
def test_views_that_are_made_ready_together_are_those_one_by_one(numbers, network, monkeypatch):
    """Of 16 iterations, or of five where no more numbers may be held."""
    settings = dataclasses.replace(SETTINGS, iterations=20)
    problems = sre2l.problems_of(3, 3, classes_per_problem=100)
    monkeypatch.setattr(sre2l, "AHEAD_ENTRIES", numbers)
    given = settings, pixel_model(network), problems, 7, torch.device("cpu")
    together = sre2l.recover_pack(*given)
    monkeypatch.setattr(sre2l, "AHEAD", 1)
    for one, other in zip(together, sre2l.recover_pack(*given)):
        assert torch.equal(one, other)

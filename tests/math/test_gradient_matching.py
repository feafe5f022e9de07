"""Dataset condensation: its distance, its gradients and its loop, against naive transcriptions."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import pixel_model
from torch import nn

from guard.data.images import Packed
from guard.method import gradient_matching, regularizers
from guard.networks import models
from guard.recipes import recipe
from guard.run.seeds import generator, seed_everything
from guard.settings import Pretrain, as_dict
from recover import dc
from recover.recovery import Request

PLAIN = Pretrain()
CURVED = Pretrain(curvature=True, lambda_=3.0, h=0.5)


def small_network(dtype=torch.float64):
    """Smooth, so that finite differences exist; 8x8 images, three classes, no batch norm."""
    layers = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.InstanceNorm2d(4, affine=True),
        nn.Softplus(),
        nn.AvgPool2d(2),
    ]
    return nn.Sequential(*layers, nn.Conv2d(4, 5, 3), nn.Softplus(), nn.Flatten(), nn.Linear(20, 3)).to(dtype)


@pytest.fixture
def smooth():
    torch.manual_seed(2)
    return small_network()


def naive_distance(mine, theirs):
    """Entry by entry: 1 - a.b / (|a| |b|) of each output unit of each weight that is no vector."""
    total = 0.0
    for one, other in zip(mine, theirs):
        if one.dim() == 1:
            continue
        for unit in range(one.shape[0]):
            a, b = one[unit].reshape(-1).tolist(), other[unit].reshape(-1).tolist()
            product = sum(x * y for x, y in zip(a, b))
            lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
            total += 1 - product / (lengths + 1e-6)
    return total


def test_the_distance_is_that_of_a_naive_loop(smooth):
    draws = torch.Generator().manual_seed(3)
    mine, theirs = (
        [torch.randn(p.shape, generator=draws, dtype=p.dtype) for p in smooth.parameters()] for _ in range(2)
    )
    mine[0][1] = 0  # a unit that is dead has distance 1, whatever the other is
    matched = [place for place, weight in enumerate(smooth.parameters()) if weight.dim() > 1]
    kept = gradient_matching.matched_weights(smooth)
    assert [id(weight) for weight in kept] == [id(list(smooth.parameters())[place]) for place in matched]
    found = gradient_matching.distance([mine[i] for i in matched], [theirs[i] for i in matched])
    assert found.item() == pytest.approx(naive_distance(mine, theirs), rel=1e-12)
    assert found.item() == pytest.approx(len(mine[0]) + len(mine[4]) + len(mine[6]), abs=6)


def test_the_gradient_by_the_pixels_is_that_of_finite_differences(smooth, batch):
    pixels, _ = batch
    real = dc.real_gradients(pixel_model(smooth), pixels[:3], torch.tensor([1, 1, 1]), PLAIN)
    x, labels = pixels[3:].clone(), torch.tensor([1, 1])

    def distance_at(images):
        loss = F.cross_entropy(smooth(images), labels)
        return naive_distance(torch.autograd.grad(loss, gradient_matching.matched_weights(smooth)), real)

    found, gradient = dc.matched(smooth, x, labels, real)
    assert found.item() == pytest.approx(distance_at(x), rel=1e-10)
    for place in ((0, 0, 0, 0), (0, 2, 4, 3), (1, 1, 7, 7), (1, 0, 2, 5)):
        step = torch.zeros_like(x)
        step[place] = 1e-5
        expected = (distance_at(x + step) - distance_at(x - step)) / 2e-5
        assert gradient[place].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    "penalty", [PLAIN, CURVED, Pretrain(gradient_regularization=True, gradient_beta=2.0)]
)
def test_the_regularizers_of_the_teacher_join_the_loss_on_training_images(penalty, smooth, batch):
    """By finite differences along one direction in the weights; the step z is a constant by definition."""
    pixels, labels = batch
    model = pixel_model(smooth)
    x, count = model.normalize(pixels), len(pixels)

    def input_gradients(images):
        images = images.detach().requires_grad_()
        losses = F.cross_entropy(smooth(images), labels, reduction="none")
        return torch.autograd.grad(losses.sum(), images)[0].flatten(1)

    own = input_gradients(x)
    z = (penalty.h * own / own.norm(dim=1, keepdim=True)).view_as(x)

    def loss():
        total = F.cross_entropy(smooth(x), labels).item()
        if penalty.curvature:
            change = input_gradients(x + z) - input_gradients(x)
            total += penalty.lambda_ * change.norm(dim=1).sum().item() / count**2
        if penalty.gradient_regularization:
            total += penalty.gradient_beta * input_gradients(x).norm(dim=1).sum().item() / count**2
        return total

    weights = gradient_matching.matched_weights(smooth)
    found = dc.real_gradients(model, pixels, labels, penalty)
    draws = torch.Generator().manual_seed(4)
    along = [torch.randn(w.shape, generator=draws, dtype=w.dtype) for w in weights]
    values = []
    for sign in (1, -2, 1):  # forth, back beyond where it began, and home
        for weight, direction in zip(weights, along):
            weight.data += sign * 1e-5 * direction
        values.append(loss())
    slope = sum((g * d).sum().item() for g, d in zip(found, along))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_a_whole_mini_batch_needs_no_other_process(smooth, batch, monkeypatch):
    """dc works in one process of the group while the others wait, and the regularizer loss sums over it."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    bent = Pretrain(curvature=True, regularizer="loss", loss_beta=1.0)
    assert regularizers.penalty(bent, smooth, *batch) > 0
    with pytest.raises(ValueError, match="process group"):
        regularizers.penalty(bent, smooth, *batch, batch_size=len(batch[0]))


# ---- the loop ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 1)), (10, (10, 50)), (20, (20, 25)), (50, (50, 10))])
def test_the_published_loops(count, expected):
    assert dc.loops(dataclasses.replace(recipe("cifar10").recover, images_per_class=count)) == expected


def test_the_published_numbers_of_images():
    """16 training images of each class for batch norms, 256 distilled ones in a step of a network."""
    assert dc.STATISTICS_IMAGES == 16
    network, sizes = small_network(torch.float32), []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    x, labels = torch.rand(300, 3, 8, 8), torch.arange(300) % 3
    dc._train(network, optimizer, x, labels, 2, torch.Generator().manual_seed(0), "fp32")
    assert sizes == 2 * [256, 44]


def test_the_regularizers_are_those_of_the_teachers_settings():
    for penalty in (PLAIN, CURVED, Pretrain(gradient_regularization=True, gradient_beta=2.0)):
        assert dc.settings_of(SimpleNamespace(settings=as_dict(penalty))) == penalty


class Bar:
    def step(self, *_, **__):
        pass

    line = step


def no_state():
    return SimpleNamespace(read=lambda names: None, save_if_due=lambda state: None)


def request_for(network_of, penalty=PLAIN, **changes):
    """A Request for images of three classes from 21 random ones of 8x8 pixels, with fresh networks by
    network_of().
    """
    pixels = torch.randint(256, (21, 3, 8, 8), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    held = Packed(pixels, torch.arange(21) % 3, ("a", "b", "c"))
    chosen = {"images_per_class": 2, "iterations": 2, "matchings": 3, "network_epochs": 2, "real_batch": 5}
    settings = dataclasses.replace(recipe("cifar10").recover, method="dc", **chosen | changes)
    trained_with = as_dict(penalty)
    teacher = SimpleNamespace(settings=trained_with, fresh=lambda: pixel_model(network_of()).train())
    model = pixel_model(network_of())
    return Request(settings, model, ["a", "b", "c"], 3, torch.device("cpu"), held, teacher)


def naive_loop(request):
    """The published algorithm, written down plainly: momentum by hand, a class at a time."""
    settings, model = request.settings, request.model
    real_pixels = request.training_images.pixels.float() / 255
    x = torch.randn(6, 3, 8, 8, generator=generator(3, "dc", "noise"))
    low, high = model.normalize(torch.zeros(1, 3, 1, 1)), model.normalize(torch.ones(1, 3, 1, 1))
    labels, speed = torch.tensor([0, 0, 1, 1, 2, 2]), torch.zeros_like(x)
    for number in range(settings.iterations):
        seed_everything(3, "dc", "network", number)
        network = small_network(torch.float32)
        weights = list(network.parameters())
        speeds = [torch.zeros_like(weight) for weight in weights]
        for step in range(settings.matchings):
            draws = generator(3, "dc", number, step)
            wide = [weight for weight in weights if weight.dim() >= 2]
            slopes = torch.zeros_like(x)
            for label in range(3):
                order = torch.randperm(7, generator=draws)[: settings.real_batch]
                images = model.normalize(real_pixels[order * 3 + label])
                loss = -network(images).log_softmax(1)[:, label].mean()
                theirs = torch.autograd.grad(loss, wide)
                own = x[2 * label : 2 * label + 2].clone().requires_grad_()
                loss = -network(own).log_softmax(1)[:, label].mean()
                mine = torch.autograd.grad(loss, wide, create_graph=True)
                total = 0
                for one, other in zip(mine, theirs):
                    for a, b in zip(one, other):
                        total = total + 1 - (a * b).sum() / (a.norm() * b.norm() + 1e-6)
                slopes[2 * label : 2 * label + 2] = torch.autograd.grad(total, own)[0]
            speed = settings.image_momentum * speed + slopes
            x = (x - settings.image_rate * speed).maximum(low).minimum(high)
            for _ in range(settings.network_epochs if step < settings.matchings - 1 else 0):
                order = torch.randperm(6, generator=draws)
                loss = F.cross_entropy(network(x[order]), labels[order])
                gradients = torch.autograd.grad(loss, weights)
                for weight, its_speed, gradient in zip(weights, speeds, gradients):
                    its_speed.mul_(settings.network_momentum).add_(gradient)
                    weight.data -= settings.network_rate * its_speed
    return model.denormalize(x)


def make(request):
    return dc.plan(request).parts[0].make(Bar(), no_state())


def test_the_images_are_those_of_a_naive_loop():
    request = request_for(lambda: small_network(torch.float32), network_momentum=0.3, network_rate=0.2)
    made = make(request)
    torch.testing.assert_close(made.pixels, naive_loop(request), rtol=0, atol=2e-5)
    assert made.pixels.min() >= 0 and made.pixels.max() <= 1
    assert len(made.losses) == 6 and made.losses[0] == made.losses[1] != made.losses[2]


def test_a_step_too_long_stays_within_valid_pixels():
    made = make(request_for(lambda: small_network(torch.float32), image_rate=100.0))
    assert made.pixels.min() == 0 and made.pixels.max() == 1


def with_batch_norm():
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3))


def test_batch_norm_sees_training_images_and_no_single_class():
    request = request_for(with_batch_norm, CURVED)
    held = dc.plan(request).parts[0].make.args[0]
    model = request.teacher.fresh()
    dc._set_batch_norms(held, model, torch.Generator().manual_seed(0))
    (norm,) = models.batch_norm_layers(model)
    with torch.no_grad():
        seen = model.network[0](model.normalize(request.training_images.pixels / 255))
    torch.testing.assert_close(norm.running_mean, 0.1 * seen.mean((0, 2, 3)))  # once, with momentum 0.1
    before = norm.running_var.clone()
    dc.real_gradients(model, *held.training_batch(1, 4, torch.Generator().manual_seed(0)), held.of_teacher)
    assert not norm.training and torch.equal(norm.running_var, before)
    assert make(request).pixels.isfinite().all()


def test_a_network_is_trained_with_the_statistics_of_its_mini_batches():
    """Also after its batch norms have stood still while gradients were matched."""
    network, x = with_batch_norm().eval(), torch.rand(6, 3, 8, 8)
    still = torch.optim.SGD(network.parameters(), 0.0)
    dc._train(network, still, x, torch.arange(6) % 3, 1, torch.Generator().manual_seed(0), "fp32")
    seen = network[0](x).mean((0, 2, 3))
    torch.testing.assert_close(network[1].running_mean, 0.1 * seen)  # one step, with momentum 0.1


@pytest.mark.parametrize("network_of", [with_batch_norm, lambda: small_network(torch.float32)])
def test_in_bf16_the_network_is_matched_as_its_training_left_it(network_of):
    """Autocast may keep the weights that it has rounded, or round them each time: that changes nothing."""
    request = request_for(network_of, precision="bf16", network_rate=0.2)
    kept = make(request)
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        rounded_each_time = make(request)
    finally:
        torch.set_autocast_cache_enabled(before)
    assert torch.equal(kept.pixels, rounded_each_time.pixels) and kept.losses == rounded_each_time.losses

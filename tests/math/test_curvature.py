"""The regularizers and the measured curvature against the naive computation, finite differences and full
Hessians, in float64.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from guard.bench import reference
from guard.method import curvature, regularizers
from guard.networks import models
from guard.settings import Pretrain

H = 0.7
FORMS = {
    "gradient-norm": lambda network, x, y: 3.0 * reference.gradient_norm(network, x, y, H),
    "gradient-squared": lambda network, x, y: 3.0 * reference.gradient_squared(network, x, y, H),
    "loss": lambda network, x, y: 0.5 * reference.loss_difference(network, x, y, H),
    "gradient-regularization": lambda network, x, y: 0.5 * reference.gradient_regularization(network, x, y),
    "both": (
        lambda network, x, y: (
            3.0 * reference.gradient_norm(network, x, y, H)
            + 0.5 * reference.gradient_regularization(network, x, y)
        )
    ),
}


def ours(form, network, x, y, statistics="running"):
    settings = Pretrain(
        curvature=form != "gradient-regularization",
        regularizer={"gradient-regularization": "loss", "both": "gradient-norm"}.get(form, form),
        lambda_=3.0,
        loss_beta=0.5,
        gradient_beta=0.5,
        h=H,
        gradient_regularization=form in ("gradient-regularization", "both"),
        curvature_statistics=statistics,
    )
    return regularizers.penalty(settings, network, x, y)


def weight_gradients(value, network):
    return torch.autograd.grad(value, list(network.parameters()), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("form", FORMS)
def test_value_and_weight_gradient_are_the_naive_ones(form, network, batch):
    expected, found = FORMS[form](network, *batch), ours(form, network, *batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10) and found.item() != 0
    for one, other in zip(weight_gradients(found, network), weight_gradients(expected, network)):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("form", ["gradient-norm", "gradient-squared", "loss", "gradient-regularization"])
def test_weight_gradient_is_the_finite_difference(form, network, batch):
    """z is a constant in the derivative, so the finite differences hold z where it was."""
    x, y = batch
    z = reference.direction(network, x, y, H)

    def gradient_at(point):
        point = point.detach().requires_grad_()
        return torch.autograd.grad(
            nn.functional.cross_entropy(network(point), y, reduction="sum"), point, create_graph=False
        )[0]

    def value():
        network.eval()
        change = (gradient_at(x + z) - gradient_at(x)).flatten(1)
        values = {
            "gradient-norm": lambda: 3.0 * (change.norm(dim=1) / len(x)).mean(),
            "gradient-squared": lambda: 3.0 * change.square().sum(1).mean(),
            "loss": (
                lambda: (
                    0.5
                    * (
                        nn.functional.cross_entropy(network(x + z), y)
                        - nn.functional.cross_entropy(network(x), y)
                    ).abs()
                )
            ),
            "gradient-regularization": lambda: 0.5 * (gradient_at(x).flatten(1).norm(dim=1) / len(x)).mean(),
        }
        return values[form]().item()

    gradients = weight_gradients(ours(form, network, x, y), network)
    step = 1e-5
    for parameter, gradient in zip(network.parameters(), gradients):
        for position in (0, parameter.numel() // 2):
            flat = parameter.data.view(-1)
            flat[position] += step
            above = value()
            flat[position] -= 2 * step
            below = value()
            flat[position] += step
            assert gradient.flatten()[position].item() == pytest.approx(
                (above - below) / (2 * step), rel=1e-4, abs=1e-8
            )


def by_the_mini_batch(network, x, y, z):
    """mean_i ||grad L(x + z)_i - grad L(x)_i|| and mean_i ||grad L(x)_i||, with batch norm in train mode."""
    network = copy.deepcopy(network).train()

    def gradient_at(point):
        point = point.detach().requires_grad_()
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(network(point), y)
        return torch.autograd.grad(loss, point)[0].flatten(1)

    change = gradient_at(x + z) - gradient_at(x)
    return change.norm(dim=1).mean().item(), gradient_at(x).norm(dim=1).mean().item()


def test_by_statistics_of_the_mini_batch_value_and_gradient_are_those_in_train_mode(network, batch):
    x, y = batch
    point = x.clone().requires_grad_()
    own = copy.deepcopy(network).train()
    loss = nn.functional.cross_entropy(own(point), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, point)
    z = H * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

    def naive():
        change, size = by_the_mini_batch(network, x, y, z)
        return 3.0 * change + 0.5 * size

    found = ours("both", network, x, y, "batch")
    assert found.item() == pytest.approx(naive(), rel=1e-10)
    assert found.item() != pytest.approx(ours("both", network, x, y).item(), rel=0.01)
    step = 1e-5
    for weight, gradient in zip(network.parameters(), weight_gradients(found, network)):
        place = gradient.abs().flatten().argmax()
        with torch.no_grad():
            flat = weight.view(-1)
            flat[place] += step
            above = naive()
            flat[place] -= 2 * step
            below = naive()
            flat[place] += step
        expected = (above - below) / (2 * step)
        assert gradient.flatten()[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_a_scale_that_the_next_batch_norm_takes_back_lowers_the_published_penalty_alone():
    torch.manual_seed(0)
    network = models.ConvNet(3, 16, width=8, blocks=2).double().train()
    x, y = torch.randn(32, 3, 16, 16).double(), torch.arange(32) % 3
    for _ in range(100):  # running statistics are those of the mini-batch
        network(x)
    before = {kind: ours("gradient-norm", network, x, y, kind).item() for kind in ("running", "batch")}
    seen = network(x)
    with torch.no_grad():
        network[1].weight *= 0.5
        network[1].bias *= 0.5
    torch.testing.assert_close(network(x), seen, rtol=1e-2, atol=1e-3)
    after = {kind: ours("gradient-norm", network, x, y, kind).item() for kind in ("running", "batch")}
    assert after["running"] < 0.8 * before["running"]
    assert after["batch"] == pytest.approx(before["batch"], rel=0.02)


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_statistics_modes_and_gradients_are_untouched(statistics, network, batch):
    network.train()
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    ours("both", network, *batch, statistics)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_zero_gradient_gives_no_nan(form, network, batch):
    with torch.no_grad():
        network[-1].weight.zero_()
    value = ours(form, network, *batch)
    assert (
        all(gradient.isfinite().all() for gradient in weight_gradients(value, network)) and value.isfinite()
    )


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e30])
def test_z_has_its_length_for_tiny_and_huge_gradients_in_float32(size):
    gradient = torch.randn(2, 3, 4, 4) * size
    gradient[1] = 0
    z = regularizers.normalized(gradient, 3.0)
    assert z[0].norm().item() == pytest.approx(3.0, rel=1e-5) and not z[1].any()
    cosine = nn.functional.cosine_similarity(
        z[0].double().flatten(), gradient[0].double().flatten() / size, dim=0
    )
    assert cosine.item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(
    ("form", "forwards", "gradients"),
    [
        ("gradient-norm", 2, 2),
        ("gradient-squared", 2, 2),
        ("loss", 2, 1),
        ("gradient-regularization", 1, 1),
        ("both", 2, 2),
    ],
)
def test_no_pass_is_made_twice(form, forwards, gradients, network, batch, monkeypatch):
    """The gradient at x that gives z is the one that the penalty uses."""
    counted = {"forward": 0, "gradient": 0}
    network.register_forward_hook(lambda *_: counted.update(forward=counted["forward"] + 1))
    original = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd,
        "grad",
        lambda *a, **k: counted.update(gradient=counted["gradient"] + 1) or original(*a, **k),
    )
    ours(form, network, *batch)
    assert counted == {"forward": forwards, "gradient": gradients}


def test_share_of_a_batch_uses_the_whole_batch_size(network, batch):
    x, y = batch
    settings = Pretrain(curvature=True, lambda_=1.0, h=H, gradient_beta=0.2, gradient_regularization=True)
    whole = regularizers.penalty(settings, network, x, y)
    parts = [
        regularizers.penalty(settings, network, x[a:b], y[a:b], batch_size=5) * (b - a) / 5
        for a, b in ((0, 2), (2, 5))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-10)


def test_the_loss_counts_by_how_much_it_changes_in_either_direction():
    """Logits (sin 3x, 0) of one pixel: a step of 1 up the loss goes over its top, and ends below."""

    class Wave(nn.Module):
        def forward(self, x):
            first = (3 * x.flatten(1).sum(1)).sin()
            return torch.stack([first, torch.zeros_like(first)], 1)

    x, y = torch.tensor([[[[0.4]]]], dtype=torch.float64), torch.tensor([1])
    network, settings = Wave(), Pretrain(curvature=True, regularizer="loss", loss_beta=1.0, h=1.0)
    before, after = (nn.functional.cross_entropy(network(x + step), y).item() for step in (0.0, 1.0))
    assert after < before - 0.5
    assert regularizers.penalty(settings, network, x, y).item() == pytest.approx(before - after, rel=1e-10)


def test_the_sign_of_the_loss_is_that_of_all_shares_by_their_images(network, batch, monkeypatch):
    """What each share tells the others adds up to L(x + z) - L(x) of the whole mini-batch."""
    x, y = batch
    told = []
    monkeypatch.setattr(regularizers, "sum_over_processes", lambda share: told.append(share) or -share)
    settings = Pretrain(curvature=True, regularizer="loss", loss_beta=1.0, h=H)
    for part in (slice(0, 1), slice(1, 5)):
        found = regularizers.penalty(settings, network, x[part], y[part], batch_size=5)
        share = told[-1] * 5 / len(x[part])
        assert found.item() == pytest.approx(-share.abs().item(), rel=1e-10)  # by the others' sign
    whole = reference.loss_difference(network, x, y, H)
    assert sum(told).abs().item() == pytest.approx(whole.item(), rel=1e-10)


def test_measured_curvature_is_the_hessians(network, batch):
    network.eval()
    x, y = batch
    measured = curvature.measure(network, x, y, H, iterations=40, generator=torch.Generator().manual_seed(0))
    z = reference.direction(network, x, y, H)
    for i in range(len(x)):
        assert measured["along_z"][i].item() == pytest.approx(
            float(reference.curvature_along_z(network, x[i], y[i], H)), rel=1e-8
        )
        assert measured["largest_eigenvalue"][i].item() == pytest.approx(
            torch.linalg.eigvalsh(reference.hessian(network, x[i], y[i]))[-1].item(), rel=1e-6
        )

    def gradient_at(point):
        point = point.detach().requires_grad_()
        return torch.autograd.grad(nn.functional.cross_entropy(network(point), y, reduction="sum"), point)[0]

    change = (gradient_at(x + z) - gradient_at(x)).flatten(1).norm(dim=1) / H
    torch.testing.assert_close(measured["gradient_change"], change)


def test_a_network_with_attention_is_regularized_and_measured(batch):
    """Attention's usual kernels have no second derivative."""
    from guard.networks import models

    torch.manual_seed(0)
    network = models.build(
        "vit", classes=3, image_size=8, stem="cifar", mean=[0.5] * 3, std=[0.2] * 3
    ).network
    for weight in network.parameters():  # a fresh one has a last layer of zeros
        weight.data += 0.05 * torch.randn_like(weight)
    network = network.double()
    x, y = batch
    found = ours("gradient-squared", network, x, y)
    with sdpa_kernel(SDPBackend.MATH):
        expected = FORMS["gradient-squared"](network, x, y)
        theirs = weight_gradients(expected, network)
    assert found.item() == pytest.approx(expected.item(), rel=1e-8) and found.item() > 0
    for one, other in zip(weight_gradients(found, network), theirs):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-12)
    assert any(each.abs().sum() > 0 for each in theirs)
    measured = curvature.measure(network, x, y, H, iterations=2)
    assert all(value.isfinite().all() for value in measured.values())

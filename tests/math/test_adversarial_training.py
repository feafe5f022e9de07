"""Adversarial training of the teacher against the naive loops."""

import pytest
import torch
from conftest import pixel_model

from guard.bench import reference
from guard.method import adversarial
from guard.run import devices
from guard.run.seeds import generator
from guard.settings import Pretrain
from pretrain import teacher


@pytest.fixture
def pixels():
    return torch.rand(
        4, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    ), torch.tensor([0, 1, 2, 0])


def test_sign_steps_are_the_naive_ones(network, pixels):
    model = pixel_model(network)
    images, labels = pixels
    noise = 0.001 * torch.randn(images.shape, generator=generator("noise"), dtype=torch.float64)
    found = adversarial.climbed(model, images, labels, start=images + noise, epsilon=0.031)
    expected = reference.adversarial_example(model, images, labels, 0.007, 10, 0.031, noise)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert 0.02 < (found - images).abs().max() <= 0.031 + 1e-9 and 0 <= found.min() and found.max() <= 1


def test_losses_are_the_formulas_and_reach_the_weights(network, pixels):
    model = pixel_model(network)
    images, labels = pixels
    loss, logits = adversarial.trades(
        model, images, labels, settings=Pretrain(epsilon=3.0, trades_beta=0.5), draws=generator("t")
    )
    noise = 0.001 * torch.randn(images.shape, generator=generator("t")).to(images)
    found = adversarial.climbed(model, images, labels, start=images + noise, epsilon=0.031)
    expected = reference.trades_loss(model, found, images, labels, 0.5)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other in zip(
        torch.autograd.grad(loss, list(model.parameters())),
        torch.autograd.grad(expected, list(model.parameters())),
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
    fast, logits = adversarial.sign_steps_loss(
        model, images, labels, settings=Pretrain(epsilon=2 / 255, trades_beta=0.5), draws=None
    )
    example = reference.adversarial_example(
        model, images, labels, 0.007, 10, 2 / 255, torch.zeros_like(images)
    )
    assert fast.item() == pytest.approx(
        torch.nn.functional.cross_entropy(model(example), labels).item(), rel=1e-9
    )
    assert logits.shape == (4, 3)


@pytest.mark.parametrize("kind", ["trades", "sign_steps_loss"])
def test_losses_are_taken_in_float32_of_logits_in_bf16(kind, network, pixels):
    model, (images, labels) = pixel_model(network).float(), pixels
    settings = Pretrain(epsilon=2 / 255, trades_beta=0.5)
    with devices.computing("bf16", torch.device("cpu")):
        loss, logits = getattr(adversarial, kind)(
            model, images.float(), labels, settings=settings, draws=generator("t")
        )
    assert loss.dtype == logits.dtype == torch.float32


def test_making_examples_moves_no_statistics_and_no_gradients(network, pixels):
    model = pixel_model(network).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adversarial.climbed(model, *pixels, start=pixels[0], epsilon=0.03)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())


def test_regularizers_at_each_third_step_have_three_times_their_weight(network, pixels):
    model = pixel_model(network)

    def loss(step, **changes):
        settings = Pretrain(
            curvature=True, gradient_regularization=True, gradient_beta=0.1, lambda_=2.0, **changes
        )
        return teacher.teacher_loss(settings, model, *pixels, batch_size=4, step=step, draws=None)[0].item()

    plain = teacher.teacher_loss(Pretrain(), model, *pixels, batch_size=4, step=0, draws=None)[0].item()
    penalty = loss(0) - plain
    assert penalty > 1e-3 and loss(7) == loss(0)
    assert [loss(step, curvature_every=3) for step in range(7)] == pytest.approx(
        [plain + (3 * penalty if step % 3 == 0 else 0) for step in range(7)]
    )

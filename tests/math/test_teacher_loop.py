"""The teacher's training as a plain loop, what it is shown, and what is measured of it."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import pixel_model

from guard.bench import reference
from guard.data import loading
from guard.data.images import Packed
from guard.method import regularizers
from guard.run import seeds
from guard.settings import Pretrain
from pretrain import teacher

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")


def noise_images(count=21, size=8):
    draws = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (count, 3, size, size), generator=draws, dtype=torch.uint8)
    return Packed(pixels, torch.arange(count) % len(CLASSES), CLASSES)


# ---- the loop ------------------------------------------------------------------------------------

LOOP = Pretrain(
    model="convnet-32",
    image_size=8,
    stem="cifar",
    augmentation="none",
    epochs=2,
    batch_size=8,
    learning_rate=0.1,
    momentum=0.8,
    weight_decay=0.3,
    clip_grad_norm=0.7,
    precision="fp32",
    channels_last=False,
    adversarial="n",
    epsilon=0.05,
)


def one_adversarial_step(model, pixels, labels, draws):
    """N-FGSM (de Jorge et al. 2022): uniform noise in 2 epsilon, then one step of epsilon, valid pixels."""
    noise = 0.1 * (2 * torch.rand(pixels.shape, generator=draws) - 1)
    at = (pixels + noise).requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model.eval()(at), labels), at)
    return (at.detach() + 0.05 * slope.sign()).clamp(0, 1)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_teachers_training_is_a_plain_loop(seed):
    """Momentum, weight decay and clipping by hand; weights and noise are those of the seed, and the noise of
    the epoch as well.
    """
    held = noise_images()
    idle = SimpleNamespace(restore=lambda *_: (0, []), save_if_due=lambda *_: None)
    found, history = teacher._train(LOOP, teacher.Data("digits", held, held, 0, CPU), seed, {}, idle)

    seeds.seed_everything(seed, "teacher", "weights")
    model = teacher.build(LOOP, "digits", CLASSES)
    weights = list(model.parameters())
    speeds = [torch.zeros_like(weight) for weight in weights]
    clipped = 0
    for epoch in range(2):
        rate = 0.1 * (1 + math.cos(math.pi * epoch / 2)) / 2
        draws, right = seeds.generator(seed, "teacher noise", epoch, 0), 0
        views = {"augmentation": "none", "batch_size": 8, "size": 8}
        batches = loading.TrainingEpoch(held, **views, seed=seed, epoch=epoch)
        for number in range(len(batches)):
            pixels, labels = batches[number]
            moved = one_adversarial_step(model, pixels / 255, labels, draws)
            logits = model.train()(moved)
            right += (logits.argmax(1) == labels).sum().item()
            gradients = torch.autograd.grad(F.cross_entropy(logits, labels), weights)
            norm = math.sqrt(sum(each.double().square().sum().item() for each in gradients))
            shrink = min(1, 0.7 / norm)
            clipped += shrink < 1
            with torch.no_grad():
                for weight, speed, gradient in zip(weights, speeds, gradients, strict=True):
                    speed.mul_(0.8).add_(shrink * gradient + 0.3 * weight)
                    weight -= rate * speed
        assert history[epoch]["train accuracy"] == pytest.approx(100 * right / len(held))
    assert clipped
    for (name, one), other in zip(found.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(
            one, other, rtol=0, atol=2e-4, msg=lambda told, name=name: f"{name}: {told}"
        )


# ---- what it is shown ----------------------------------------------------------------------------


def test_each_random_draw_of_a_teacher_has_a_stream_of_its_own(monkeypatch):
    """Dropout, noise, order, and the views of each mini-batch: two by one key would be the same numbers."""
    keys, plainly = [], seeds.generator

    def noted(*key):
        keys.append(key)
        return plainly(*key)

    monkeypatch.setattr(seeds, "generator", noted)
    monkeypatch.setattr(loading, "generator", noted)
    held = noise_images()
    idle = SimpleNamespace(restore=lambda *_: (0, []), save_if_due=lambda *_: None)
    teacher._train(LOOP, teacher.Data("digits", held, held, 0, CPU), 5, {}, idle)
    own = [key for key in keys if key[0] == 5]
    assert len(own) > 8 and len({*own}) == len(own), own


def test_each_mini_batch_of_each_epoch_and_seed_has_views_of_its_own():
    """Of images that are all the same, so that only the views can differ."""
    ramp = torch.arange(1, 9, dtype=torch.uint8) + 16 * torch.arange(8, dtype=torch.uint8).view(8, 1)
    held = Packed(ramp.expand(24, 3, 8, 8).contiguous(), torch.zeros(24, dtype=torch.int64), ("a",))
    seen = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        views = {"augmentation": "pad-crop", "batch_size": 8, "size": 8}
        epoch_of_views = loading.TrainingEpoch(held, **views, seed=seed, epoch=epoch)
        seen += [epoch_of_views[number][0] for number in range(3)]
    assert not any(torch.equal(one, other) for place, one in enumerate(seen) for other in seen[:place])


@pytest.mark.parametrize("adversarial", ["t", "f", "n"])
def test_regularizers_of_an_adversarial_teacher_look_at_the_clean_images(adversarial, network):
    model, draws = pixel_model(network), torch.Generator().manual_seed(3)
    pixels = torch.rand(4, 3, 8, 8, generator=draws, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    alone = Pretrain(adversarial=adversarial, epsilon=8 / 255)
    curved = dataclasses.replace(alone, curvature=True, lambda_=2.0, h=1.0)
    given = {"batch_size": 4, "step": 0}
    without, with_it = (
        teacher.teacher_loss(each, model, pixels, labels, **given, draws=seeds.generator("noise"))[0].item()
        for each in (alone, curved)
    )
    penalty = regularizers.penalty(curved, model.network, model.normalize(pixels), labels).item()
    assert with_it - without == pytest.approx(penalty, rel=1e-6)


def test_watching_a_teacher_leaves_its_running_statistics(network):
    """An attack in train mode would move them."""
    model, held = pixel_model(network.float()).train(), noise_images()
    before = {name: value.clone() for name, value in model.named_buffers()}
    found = teacher.Data("digits", held, held, 0, CPU).pgd10_accuracy(model, 8 / 255)
    assert 0 <= found <= 100 and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


# ---- what is measured ----------------------------------------------------------------------------


def test_the_measured_curvature_is_the_mean_over_the_chosen_normalized_images(network):
    """Against dense Hessians, an image at a time."""
    model, val = pixel_model(network.float()), noise_images()
    found = teacher.measure_curvature(model, teacher.Data("digits", val, val, 0, CPU), 6, 1.5, batch_size=4)
    chosen = torch.linspace(0, len(val) - 1, 6).round().long()
    x = (val.pixels[chosen].double() / 255 - model.mean.double()) / model.std.double()
    exact = network.double().eval()
    pairs = list(zip(x, val.labels[chosen], strict=True))
    largest = [torch.linalg.eigvalsh(reference.hessian(exact, *pair))[-1].item() for pair in pairs]
    along = [float(reference.curvature_along_z(exact, *pair, 1.5)) for pair in pairs]
    assert found["images"] == 6
    assert found["largest_eigenvalue"] == pytest.approx(sum(largest) / 6, rel=2e-2)
    assert found["along_z"] == pytest.approx(sum(along) / 6, rel=1e-3)

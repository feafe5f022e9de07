"""One-step adversarial training, adversarial views and averaged weights, against plain transcriptions."""

import copy
import dataclasses
import math

import device_steps
import pytest
import torch
from conftest import TOY, command, pixel_model, toy_student

from guard.distilled import soft_labels
from guard.method import losses, one_step, schedules
from guard.method.views import adversarial_views
from guard.networks import checkpoint, models
from guard.run import records
from guard.run.seeds import generator
from guard.settings import Pretrain, Train
from pretrain import teacher
from train import student

EPSILON = 8 / 255


@pytest.fixture
def batch():
    pixels = torch.rand(5, 3, 8, 8, generator=generator("pixels"), dtype=torch.float64)
    return pixels, torch.tensor([0, 1, 2, 1, 0])


def gradient_of(loss_of, image):
    """By autograd, for one image alone."""
    image = image.clone().requires_grad_()
    loss_of(image.unsqueeze(0)).backward()
    return image.grad


def test_the_noisy_step_is_the_formula_image_by_image(network, batch):
    model, (pixels, labels) = pixel_model(network), batch
    found = one_step.noisy_step(model, pixels, labels, epsilon=EPSILON, draws=generator("eta"))
    eta = 2 * EPSILON * (2 * torch.rand(pixels.shape, generator=generator("eta"), dtype=torch.float64) - 1)
    for i, label in enumerate(labels):
        start = pixels[i] + eta[i]

        def cross_entropy(image, label=label):
            return -model(image).log_softmax(1)[0, label]

        expected = (start + EPSILON * gradient_of(cross_entropy, start).sign()).clamp(0, 1)
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-12)
    assert EPSILON < (found - pixels).abs().max() <= 3 * EPSILON + 1e-12  # not projected to the ball


def test_its_loss_trains_on_it_and_changes_nothing_else(network, batch):
    model, (pixels, labels) = pixel_model(network).train(), batch
    before = copy.deepcopy(model.state_dict())
    moved = one_step.noisy_step(model, pixels, labels, epsilon=EPSILON, draws=generator("eta"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    settings = Pretrain(adversarial="n", epsilon=EPSILON)
    given = {"batch_size": 5, "step": 0, "draws": generator("eta")}
    loss, _ = teacher.teacher_loss(settings, model, pixels, labels, **given)
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(model(moved), labels).item())


@pytest.mark.parametrize("labels_are", ["soft", "mixed"])
def test_adversarial_views_are_one_step_up_the_divergence_within_the_ball(labels_are, network, batch):
    """Of the teacher's softmax, or of hard labels of two classes at most, whose entropy does not change."""
    model, (pixels, labels) = pixel_model(network), batch
    wanted = torch.randn(5, 3, generator=generator("logits"), dtype=torch.float64).softmax(1)
    if labels_are == "mixed":
        own = torch.nn.functional.one_hot(labels, 3).double()
        wanted = 0.7 * own + 0.3 * own.roll(1, 0)
    uniform = torch.rand(pixels.shape, generator=generator("noise"), dtype=torch.float64)
    found = adversarial_views(model, pixels, wanted, epsilon=EPSILON, noise=uniform)
    noise = EPSILON * (2 * uniform - 1)
    for i in range(5):
        start = (pixels[i] + noise[i]).clamp(0, 1)

        def divergence(image, wanted=wanted[i]):
            return (torch.xlogy(wanted, wanted) - wanted * model(image).log_softmax(1)[0]).sum()

        moved = start + EPSILON * gradient_of(divergence, start).sign()
        expected = moved.clamp(min=pixels[i] - EPSILON, max=pixels[i] + EPSILON).clamp(0, 1)
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-12)


def test_views_are_made_in_eval_mode_and_change_no_statistics(network, batch):
    model, (pixels, _) = pixel_model(network), batch
    wanted = torch.randn(5, 3, generator=generator("logits"), dtype=torch.float64).softmax(1)
    given = {"epsilon": EPSILON, "noise": torch.rand(pixels.shape, generator=generator("noise")).double()}
    expected = adversarial_views(model.eval(), pixels, wanted, **given)
    before = copy.deepcopy(model.state_dict())
    found = adversarial_views(model.train(), pixels, wanted, **given)
    assert torch.equal(found, expected) and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_students_loss_mixes_clean_and_adversarial_views_in_their_shares(network, batch):
    model, (pixels, labels) = pixel_model(network), batch
    logits = torch.randn(5, 3, generator=generator("logits"), dtype=torch.float64)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    noise = torch.rand(pixels.shape, generator=generator("noise"), dtype=torch.float64)

    def loss(**changes):
        settings = Train(temperature=2.0, view_epsilon=EPSILON, **changes)
        return student.student_loss(settings, model, pixels, logits, targets, noise=noise).item()

    clean, adversarial = loss(), loss(adversarial_share=1.0)
    moved = adversarial_views(model, pixels, logits.softmax(1), epsilon=EPSILON, noise=noise)
    of_moved = losses.kullback_leibler(model(moved), logits, targets, 2.0).item()
    assert adversarial == pytest.approx(of_moved) and adversarial > clean
    assert loss(adversarial_share=5 / 6) == pytest.approx(clean / 6 + 5 / 6 * adversarial)
    assert loss(squared_temperature=True) == pytest.approx(4 * clean)
    for name in ("mse", "cross-entropy"):  # which have no temperature
        assert loss(loss=name, squared_temperature=True) == loss(loss=name)
    half = (4 * clean + loss(loss="cross-entropy")) / 2  # of both losses the divergence alone has it
    assert loss(loss="kl+cross-entropy", squared_temperature=True) == pytest.approx(half)


def test_hard_labels_alone_need_no_teacher_for_adversarial_views(network, batch):
    """Neither the step nor the loss reads its logits."""
    model, (pixels, labels) = pixel_model(network), batch
    targets = torch.nn.functional.one_hot(labels, 3).double()
    noise = torch.rand(pixels.shape, generator=generator("noise"), dtype=torch.float64)

    def loss(logits):
        settings = Train(loss="cross-entropy", view_epsilon=EPSILON, adversarial_share=1.0)
        return student.student_loss(settings, model, pixels, logits, targets, noise=noise).item()

    moved = adversarial_views(model, pixels, targets, epsilon=EPSILON, noise=noise)
    expected = torch.nn.functional.cross_entropy(model(moved), labels).item()
    assert loss(torch.zeros(5, 3).double()) == loss(-100 * targets) == pytest.approx(expected)
    assert expected > torch.nn.functional.cross_entropy(model(pixels), labels).item()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loss": "cross-entropy", "adversarial_share": 0.5}, {"view_target": "hard labels"}),
        ({"loss": "cross-entropy", "adversarial_share": 0.5, "views_against": "teacher"}, {}),
        ({"loss": "cross-entropy"}, {}),
        ({"adversarial_share": 0.5}, {}),
    ],
)
def test_what_adversarial_views_are_against_is_part_of_a_student(settings, told):
    """So one of hard labels whose views were against a teacher's logits does not pass for it."""
    assert student._key_of_hard_targets(Train(**settings)) == told


def test_the_average_of_weights_is_the_recursion(network):
    model = pixel_model(network)
    averaged, expected = student.Averaged(model, 0.9), copy.deepcopy(list(model.parameters()))
    for step in range(4):
        with torch.no_grad():
            for number, weight in enumerate(model.parameters()):
                weight += math.sin(step + number)
                expected[number] = 0.9 * expected[number] + 0.1 * weight
        averaged.update()
    for found, wanted in zip(averaged.average.parameters(), expected):
        torch.testing.assert_close(found.data, wanted.data, rtol=0, atol=1e-12)


def labelled(count):
    """What a step of the student takes: views, the teacher's logits, targets, no gradient, no noise."""
    pixels = torch.rand(count, 3, 8, 8, generator=generator("views"), dtype=torch.float64)
    logits = torch.randn(count, 3, generator=generator("logits"), dtype=torch.float64)
    targets = torch.nn.functional.one_hot(torch.arange(count) % 3, 3).double()
    return pixels, logits, targets, None, None, count


def test_a_step_of_the_student_trains_moves_the_average_and_gives_the_sum_of_the_losses(network):
    model, given = pixel_model(network).train(), labelled(6)
    settings, averaged = Train(precision="fp32", temperature=2.0), student.Averaged(model, 0.25)
    before = [weight.detach().clone() for weight in model.parameters()]
    copied = copy.deepcopy(model)
    expected = student.student_loss(settings, copied, *given[:3])
    gradients = torch.autograd.grad(expected, list(copied.parameters()))
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    (found,) = student.training_step(settings, model, optimizer, torch.device("cpu"), averaged)(*given)
    assert found.item() == pytest.approx(6 * expected.item())
    averaged.copy_buffers()
    moved = [gradient.abs().max() > 1e-9 for gradient in gradients]
    assert moved.count(False) == 2  # the biases before batch norms, whose gradients are rounding
    weights = zip(before, gradients, model.parameters(), averaged.average.parameters(), strict=True)
    for old, gradient, new, mean in weights:
        torch.testing.assert_close(new.data, old - 0.5 * gradient, rtol=0, atol=1e-12)
        torch.testing.assert_close(mean.data, 0.25 * old + 0.75 * new.data, rtol=0, atol=1e-12)
    for value, mean in zip(model.buffers(), averaged.average.buffers()):
        assert torch.equal(value, mean)


def test_adamw_shrinks_matrices_and_no_vectors(network):
    """By 1 - r d in a step, where the gradients are zero."""
    settings = Train(optimizer="adamw", learning_rate=0.5, weight_decay=0.1)
    before = [weight.detach().clone() for weight in network.parameters()]
    optimizer = student.optimizer_of(network, settings)
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for old, new in zip(before, network.parameters()):
        torch.testing.assert_close(new.data, old * (0.95 if old.ndim > 1 else 1.0))
    assert {weight.ndim for weight in network.parameters()} == {1, 2, 4}


def test_adamw_steps_are_those_of_the_formula(network):
    """Loshchilov and Hutter 2019: means of the gradient and of its square, by 0.9 and 0.999, without bias."""
    settings = Train(optimizer="adamw", learning_rate=0.5, weight_decay=0.1)
    optimizer, draws = student.optimizer_of(network, settings), torch.Generator().manual_seed(1)
    weights = [weight.detach().clone() for weight in network.parameters()]
    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    for step in (1, 2, 3):
        for place, weight in enumerate(network.parameters()):
            weight.grad = torch.randn(weight.shape, generator=draws, dtype=weight.dtype)
            means[place] = 0.9 * means[place] + 0.1 * weight.grad
            squares[place] = 0.999 * squares[place] + 0.001 * weight.grad**2
            decayed = weights[place] * (1 - 0.5 * 0.1 * (weight.ndim > 1))
            mean, square = means[place] / (1 - 0.9**step), squares[place] / (1 - 0.999**step)
            weights[place] = decayed - 0.5 * mean / (square.sqrt() + 1e-8)
        optimizer.step()
    for found, expected in zip(network.parameters(), weights, strict=True):
        torch.testing.assert_close(found.data, expected, rtol=0, atol=1e-10)


def test_an_epoch_trains_in_train_mode_with_noise_of_its_own():
    cpu, settings = torch.device("cpu"), Train(adversarial_share=0.5)
    images, model = device_steps.make_images(10, cpu), device_steps.make_model()
    recipe = soft_labels.LabelRecipe(batch_size=4)
    rows = soft_labels.draw_epoch(recipe, 10, images.pixels.shape[2], len(images.classes), 0)

    def noise(seed, epoch):
        found = []

        def step(pixels, logits, targets, gradient, noise, whole):
            assert model.training and noise.shape == pixels.shape
            found.append(noise)
            return [torch.tensor(2.0 * whole)]

        given = {"rows": rows, "recipe": recipe, "distilled": images, "device": cpu}
        key = (seed, "student", epoch)
        assert student.epoch_of(settings, model.eval(), step, **given, seed_key=key) == 2.0
        return torch.cat(found)

    first = noise(3, 0)
    assert torch.equal(first, noise(3, 0)) and 0 <= first.min() and first.max() < 1
    others = [noise(3, 1), noise(4, 0), first[4:8], first[8:]]
    assert not any(torch.equal(first[: len(each)], each) for each in others)


def test_the_smoothed_cosine_stops_on_its_way():
    for step in range(10):
        assert schedules.cosine(step, 10, 2.0) == pytest.approx((1 + math.cos(math.pi * step / 20)) / 2)
    assert schedules.cosine(10, 10, 2.0) == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [2, 3, 10, 391])
def test_the_cycle_of_the_learning_rate_is_torchs(steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert schedules.one_cycle(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        if step < steps - 1:
            reference.step()


def _rates(toy, output, monkeypatch, *words):
    """The learning rates of all steps of a teacher of the toy data."""
    seen, real = [], torch.optim.SGD.step

    def noted(self):
        seen.append(self.param_groups[0]["lr"])
        real(self)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.SGD, "step", noted)
        chain = ["--dataset", "toy", "--root", toy, "--output", output, *TOY["pretrain"]]
        assert command("pretrain", *chain, "--learning-rate", 0.2, *words) == 0
    return seen


def test_a_teachers_learning_rate_goes_by_epoch_or_by_step(toy, tmp_path, monkeypatch):
    by_epoch = _rates(toy, tmp_path / "cosine", monkeypatch)  # 12 images in batches of 4, twice
    assert by_epoch == pytest.approx([0.2] * 3 + [0.1] * 3)
    by_step = _rates(toy, tmp_path / "cycle", monkeypatch, "--schedule", "one-cycle")
    assert by_step == pytest.approx([0.2 * schedules.one_cycle(step, 6) for step in range(6)])


@pytest.mark.parametrize(
    ("words", "factors"),
    [
        (("--zeta", 2), [(1 + math.cos(math.pi * epoch / 12)) / 2 for epoch in range(6)]),
        (("--schedule", "step"), [1.0] * 5 + [0.1]),
    ],
)
def test_a_students_learning_rate_goes_by_its_schedule(words, factors, toy, tmp_path, monkeypatch):
    """Of four images an epoch is one step."""
    seen, real = [], torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: seen.append(self.param_groups[0]["lr"]) or real(self)
    )
    sgd = ["--optimizer", "sgd", "--learning-rate", 0.2, "--labels", "online", "--epochs", 6]
    assert command(*toy_student(toy, *sgd, *words, "--images", 1, "--output", tmp_path)) == 0
    assert seen == pytest.approx([0.2 * factor for factor in factors])


def test_what_is_saved_is_the_average_with_the_students_statistics(toy, tmp_path):
    """An average that hardly moves is where the student began, which its seed decides."""

    def trained(name, *words):
        sgd = ["--optimizer", "sgd", "--loss", "cross-entropy", "--images", 1, *words]
        assert command(*toy_student(toy, *sgd, "--output", tmp_path / name)) == 0
        return checkpoint.load(tmp_path / name / "checkpoint.pt").state

    still, fast = trained("still", "--learning-rate", 1e-9), trained("fast", "--learning-rate", 0.5)
    average = trained("average", "--learning-rate", 0.5, "--weight-average", 0.999999)
    other = trained("other", "--learning-rate", 1e-9, "--seed", 1)
    for name in still:
        if "running" in name:
            assert torch.equal(average[name], fast[name]) and not torch.equal(average[name], still[name])
        elif still[name].ndim > 1:
            torch.testing.assert_close(average[name], still[name], rtol=0, atol=1e-4)
            assert (fast[name] - still[name]).abs().max() > 1e-3
            assert (other[name] - still[name]).abs().max() > 1e-3


def test_what_an_epoch_draws_depends_on_the_seed_and_the_epoch(toy, tmp_path, monkeypatch):
    keys = []
    monkeypatch.setattr(student, "epoch_of", lambda *_, seed_key, **__: keys.append(seed_key) or 1.0)
    for seed in (0, 5):
        words = ["--images", 1, "--seed", seed, "--output", tmp_path / str(seed)]
        assert command(*toy_student(toy, *words)) == 0
    assert len(set(keys)) == 4  # two epochs each


def test_a_one_step_teacher_watches_itself_and_names_its_collapse(toy, tmp_path, monkeypatch, capsys):
    found = iter([60.0, 80.0, 41.0, 39.0])
    within = []
    monkeypatch.setattr(
        teacher.Data, "pgd10_accuracy", lambda self, model, epsilon: within.append(epsilon) or next(found)
    )
    words = ["--dataset", "toy", "--root", toy, "--output", tmp_path / "t", *TOY["pretrain"]]
    assert command("pretrain", *words, "--adversarial", "n", "--epsilon", "3/255", "--epochs", 4) == 0
    assert within == pytest.approx([3 / 255] * 4)
    history = records.read(tmp_path / "t/log.json")["pretrain"]["history"]
    assert [row["pgd10 accuracy"] for row in history] == [60.0, 80.0, 41.0, 39.0]
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1 and "in epoch 4" in warned[0] and "fell to 39.0 % from 80.0 %" in warned[0]


def test_the_watched_accuracy_is_that_of_the_attack(network, tmp_path):
    from conftest import write_folder

    from guard.data import find, images

    write_folder(tmp_path, classes=("a", "b", "c"), size=8)
    model = pixel_model(network.float()).train()
    held = images.load(find.find("toy", tmp_path, "val"), 8)
    data = teacher.Data("toy", held, held, 0, torch.device("cpu"))
    clean, robust = data.pgd10_accuracy(model, 0.0), data.pgd10_accuracy(model, 0.5)
    assert clean == pytest.approx(data.accuracy(model)) and robust < clean and model.training


def test_the_watched_images_are_no_more_at_once_than_the_memory_holds(network, tmp_path, monkeypatch):
    from conftest import write_folder

    from guard.data import find, images

    write_folder(tmp_path, classes=("a", "b", "c"), size=8)
    held = images.load(find.find("toy", tmp_path, "val"), 8)
    data, model = teacher.Data("toy", held, held, 0, torch.device("cpu")), pixel_model(network.float())
    whole, seen = data.pgd10_accuracy(model, 0.01), []
    attacked = teacher.sign_steps
    monkeypatch.setattr(teacher.memory, "images_that_fit", lambda *_: 5)
    monkeypatch.setattr(
        teacher, "sign_steps", lambda *given, **named: seen.append(named) or attacked(*given, **named)
    )
    assert data.pgd10_accuracy(model, 0.01) == pytest.approx(whole)
    (named,) = seen
    assert named["batch_size"] == 5
    assert (named["steps"], named["relative_step"], named["random_start"]) == (10, 0.25, True)
    assert named["epsilon"] == 0.01


def test_a_student_with_all_settings_of_the_modern_recipe_goes_on_with_the_same_bits(
    toy, tmp_path, monkeypatch
):
    from guard.networks.training import Training

    made = ["--dataset", "toy", "--root", toy, "--teacher", toy / "teacher/checkpoint.pt", *TOY["train"]]
    made += ["--distilled", toy / "images", "--labels", "online", "--epochs", 3, "--recipe", "modern"]
    made += ["--adversarial-share", "5/6", "--weight-average", 0.9, "--zeta", 2, "--batch-size", 2]
    assert command("train", *made, "--output", tmp_path / "whole") == 0
    saved = Training.save_if_due

    def save_and_stop(self, *state):
        self.saved = -1e9
        saved(self, *state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "save_if_due", save_and_stop)
    assert command("train", *made, "--output", tmp_path / "stopped") == 130
    monkeypatch.setattr(Training, "save_if_due", saved)
    assert command("train", *made, "--output", tmp_path / "stopped") == 0
    whole, stopped = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "stopped"))
    assert whole.fingerprint == stopped.fingerprint
    assert whole.settings["temperature"] == 4.0 and whole.settings["labels"]["crop_scale"] == 0.25
    settings = dataclasses.asdict(Train())
    assert settings["adversarial_share"] == settings["weight_average"] == 0.0 and settings["zeta"] == 1.0


@pytest.mark.parametrize("silent, warned", [(2, False), (4, True)])
def test_a_layer_that_lost_its_channels_is_named(toy, tmp_path, monkeypatch, capsys, silent, warned):
    found = [("network.2", 0, 8), ("network.10", silent, 16)]
    monkeypatch.setattr(models, "silent_channels", lambda *_: found)
    words = ["--dataset", "toy", "--root", toy, "--output", tmp_path / "t", *TOY["pretrain"]]
    assert command("pretrain", *words) == 0
    results = records.read(tmp_path / "t/log.json")["pretrain"]["results"]
    assert results["silent channels"] == {"layer": "network.10", "silent": silent, "channels": 16}
    assert ("4 of 16 channels of network.10 are zero" in capsys.readouterr().err) == warned

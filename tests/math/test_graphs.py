"""Steps that a GPU captures as CUDA graphs do what they do one operation at a time.

Their bodies run here; that they may be captured, and replayed, is seen with a stand-in for CUDA graphs.
"""

import copy
import dataclasses
import weakref

import pytest
import torch
from recorded_graph import Graph, recorded_graphs

from guard.distilled import soft_labels
from guard.method import schedules
from guard.run import graphs
from guard.settings import Train
from tests import device_steps
from train import student

CPU = torch.device("cpu")


@pytest.fixture
def captured(monkeypatch):
    """Has all steps be captured, with the stand-in."""
    monkeypatch.setattr(graphs, "captures", lambda mode, device: mode == "auto")
    monkeypatch.setattr(graphs.Step, "refused", False)
    with recorded_graphs():
        yield


def both_ways(work):
    """(what work() gives operation by operation, what it gives captured), with learning rates in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "WARM", 10**9)
        plainly = work()
    assert Graph.count == 0
    return plainly, work()


@pytest.mark.parametrize("changes", [{}, {"cda": True}, {"precision": "bf16"}], ids=str)
def test_a_captured_recovery_gives_the_same_bits(changes, captured):
    def work():
        return device_steps.recover_images(device_steps.make_model(), CPU, iterations=12, **changes)

    (pixels, losses), (again, losses_again) = both_ways(work)
    assert Graph.count == 1
    assert torch.equal(pixels, again) and torch.equal(losses, losses_again)


@pytest.mark.parametrize(
    "changes", [{}, {"mix": "mixup"}, {"teacher_mode": "train"}, {"input_gradients": "values"}], ids=str
)
def test_captured_labels_are_the_same_bytes_over_epochs(changes, captured):
    images = device_steps.make_images(10, CPU)  # the last mini-batch is smaller than the others
    recipe = soft_labels.LabelRecipe(batch_size=4, precision="fp32", **changes)

    def work():
        model = device_steps.make_model()
        step = soft_labels.labelling_step(model, recipe, CPU)
        return [soft_labels.make_epoch(model, images, recipe, epoch, step).tobytes() for epoch in range(6)]

    plainly, again = both_ways(work)
    assert Graph.count == 2
    assert plainly == again


STUDENTS = {
    **device_steps.STUDENTS,
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_captured_student_has_the_same_weights_over_epochs(kind, captured):
    """Its learning rate falls meanwhile, and its last mini-batch is smaller than the others."""
    changes = dict(STUDENTS[kind])
    labels = changes.pop("labels", {})
    settings = dataclasses.replace(Train(precision="fp32"), **changes)
    recipe = soft_labels.LabelRecipe(batch_size=4, precision="fp32", **labels)
    images, teacher = device_steps.make_images(10, CPU), device_steps.make_model(seed=1)

    def work():
        model = device_steps.make_model()
        averaged = student.Averaged(model, settings.weight_average) if settings.weight_average else None
        optimizer = student.optimizer_of(model, settings)
        step = student.training_step(settings, model, optimizer, CPU, averaged)
        losses = []
        for epoch in range(6):
            schedules.set_learning_rate(optimizer, 0.01 / (epoch + 1))
            rows = soft_labels.make_epoch(teacher, images, recipe, epoch)
            given = {"rows": rows, "recipe": recipe, "distilled": images, "device": CPU}
            losses.append(student.epoch_of(settings, model, step, **given, seed_key=(0, epoch)))
        return losses, (averaged or model).state_dict()

    (losses, weights), (again, weights_again) = both_ways(work)
    assert Graph.count == 2
    assert losses == again
    assert all(torch.equal(weights_again[name], weight) for name, weight in weights.items())
    assert losses[-1] != losses[0]


# ---- what the stand-in refuses, and what a step does then ----------------------------------------


def test_a_number_of_the_host_in_a_body_shows_as_a_difference(captured):
    """Else the tests above could not fail."""
    numbers = iter(range(10))
    step = graphs.Step(lambda x: [x * next(numbers)], True, "")
    found = [step(torch.ones(1))[0].item() for _ in range(6)]
    assert found == [0, 1, 2, 3, 3, 3]


def test_a_tensor_that_moves_shows_as_a_difference(captured):
    place = {"weight": torch.ones(1)}
    step = graphs.Step(lambda x: [x * place["weight"]], True, "")
    found = []
    for number in range(6):
        place["weight"] = place["weight"] + 1
        found.append(step(torch.ones(1))[0].item())
    assert found == [2, 3, 4, 5, 5, 5]


def test_what_cannot_be_captured_goes_on_without_after_one_line(captured, capsys):
    weight = torch.zeros(1)

    def body(x):
        weight.add_(x)
        return [weight * x.sum().item()]

    step = graphs.Step(body, True, "a step of the test")
    found = [step(torch.ones(1))[0].item() for _ in range(6)]
    assert found == [1, 2, 3, 4, 5, 6]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: a step of the test cannot be captured") and "capturing" in line


def test_after_a_refused_capture_no_other_is_tried_but_after_a_lack_of_memory(captured, capsys):
    def body(x):
        if torch.cuda.is_current_stream_capturing():
            raise problem
        return [x + 1]

    for problem, tried in ((torch.OutOfMemoryError(), 3), (RuntimeError("not permitted"), 1)):
        for _ in range(3):
            step = graphs.Step(body, True, "a step")
            assert [step(torch.ones(1))[0].item() for _ in range(6)] == [2] * 6
        assert capsys.readouterr().err.count("cannot be captured") == tried, problem


def test_what_a_failed_capture_has_made_is_gone_when_it_goes_on(captured):
    """Else there is no memory for it twice."""
    made = []

    def body(x):
        assert all(each() is None for each in made)
        activations = x * 2
        if torch.cuda.is_current_stream_capturing():
            made.append(weakref.ref(activations))
            raise torch.OutOfMemoryError
        return [activations + 1]

    step = graphs.Step(body, True, "a step")
    for _ in range(5):
        step(torch.ones(1))
    assert len(made) == 1


def test_a_recovery_whose_capture_fails_half_way_goes_on_as_without(captured, monkeypatch):
    """What the interrupted pass has seen of its layers is forgotten."""

    def work(fails):
        model = device_steps.make_model()

        def refuse(layer, inputs):
            if fails and torch.cuda.is_current_stream_capturing():
                raise torch.OutOfMemoryError

        layers = [each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
        layers[-1].register_forward_pre_hook(refuse)
        with pytest.MonkeyPatch.context() as patch:
            if not fails:
                patch.setattr(graphs, "WARM", 10**9)
            return device_steps.recover_images(model, CPU, iterations=8)

    for one, other in zip(work(False), work(True), strict=True):
        assert torch.equal(one, other)


def test_other_shapes_and_constants_are_captured_apart(captured):
    step = graphs.Step(lambda x, factor: [x * factor], True, "")
    for count, factor in ((2, 3), (2, 4), (3, 3)):
        for number in range(6):
            assert torch.equal(
                step(torch.full((count,), number), factor)[0], torch.full((count,), number * factor)
            )
    assert Graph.count == 3


def test_results_stay_what_they_were(captured):
    step = graphs.Step(lambda x: [x + 1], True, "")
    found = [step(torch.full((1,), number))[0] for number in range(6)]
    assert [each.item() for each in found] == [1, 2, 3, 4, 5, 6]


def test_nothing_is_captured_on_a_cpu_where_it_is_off_or_beside_other_processes(monkeypatch):
    cuda = torch.device("cuda", 0)
    assert graphs.captures("auto", cuda)
    assert not graphs.captures("auto", CPU) and not graphs.captures("off", cuda)
    monkeypatch.setattr(graphs, "world_size", lambda: 2)
    assert not graphs.captures("auto", cuda)


def test_an_optimizers_state_fits_wherever_it_comes_from():
    """Of a run that captured into one that does not, and back, and of one before there were fused steps."""
    torch.manual_seed(0)
    model, gradient = torch.nn.Linear(3, 2), torch.randn(2, 3)

    def stepped(captured, state, **flags):
        mine = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(mine.parameters(), 0.1, **flags)
        if state:
            optimizer.load_state_dict(state)
        if not flags:
            graphs.prepare(optimizer, captured, CPU)
        mine.weight.grad = gradient.clone()
        optimizer.step()
        return mine.weight.detach(), optimizer

    _, first = stepped(False, None)
    _, old = stepped(False, None, foreach=False)
    _, of_a_capture = stepped(False, None)
    for group in of_a_capture.param_groups:
        group["lr"], group["capturable"] = torch.tensor(0.1), True
    wanted, _ = stepped(False, first.state_dict())
    for optimizer in (old, of_a_capture):
        found, after = stepped(False, copy.deepcopy(optimizer.state_dict()))
        torch.testing.assert_close(found, wanted)
        assert all(isinstance(group["lr"], float) and not group["capturable"] for group in after.param_groups)
    graphs.prepare(first, True, CPU)
    schedules.set_learning_rate(first, 0.5)
    rate = first.param_groups[0]["lr"]
    schedules.set_learning_rate(first, 0.25)
    assert first.param_groups[0]["lr"] is rate and rate.item() == 0.25

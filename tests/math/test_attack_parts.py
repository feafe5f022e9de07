"""The pieces of APGD, FAB and Square against the papers' numbers and plain searches, in float64."""

import itertools
import math

import pytest
import torch
from conftest import pixel_model
from test_attacks import data

from guard import attacks
from guard.attacks import apgd, fab, prepare, square_attack
from guard.run.seeds import generator


def test_looks_of_a_hundred_steps_are_the_papers():
    assert apgd.looks(100).nonzero().flatten().tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert apgd.looks(10).nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_targeted_dlr_is_its_formula(classes):
    logits = torch.randn(20, classes, generator=generator("dlr", classes), dtype=torch.float64)
    labels, targets = torch.arange(20) % classes, (torch.arange(20) + 1) % classes
    found = apgd.targeted_dlr(logits, labels, targets)
    for row, label, target, value in zip(logits.tolist(), labels.tolist(), targets.tolist(), found.tolist()):
        ordered = sorted(row, reverse=True)
        scale = ordered[0] - 0.5 * (ordered[2] + ordered[3]) if classes >= 4 else 1
        assert value == pytest.approx(-(row[label] - row[target]) / scale, rel=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_targeted_dlr_has_a_gradient_for_every_target(classes):
    """Of images that are classified correctly, as those are that an attack has still to break."""
    logits = torch.randn(50, classes, generator=generator("slope", classes), dtype=torch.float64)
    ranked = logits.argsort(dim=1, descending=True)
    for rank in range(1, classes):
        at = logits.clone().requires_grad_()
        loss = apgd.targeted_dlr(at, ranked[:, 0], ranked[:, rank])
        (slope,) = torch.autograd.grad(loss.sum(), at)
        assert (slope.abs().amax(1) > 1e-3).all()


def test_dlr_does_not_change_with_shift_and_scale():
    logits = torch.randn(6, 10, generator=generator("scale"), dtype=torch.float64)
    labels, targets = torch.arange(6), torch.arange(6) + 2
    torch.testing.assert_close(
        apgd.targeted_dlr(5 * logits + 3, labels, targets), apgd.targeted_dlr(logits, labels, targets)
    )


def test_targets_are_ranked_and_as_many_as_the_model_has_classes_for(network):
    images, _ = data(6)
    model = pixel_model(network)
    ranked = apgd.ranked_targets(model, images, 4, 9)
    logits = model(images)
    assert ranked.shape == (6, 2)
    for row, order in zip(logits, ranked):
        assert row[order[0]] >= row[order[1]] and row.max() >= row[order[0]] and row.argmax() not in order


def smallest_change(x, normal, offset):
    """By bisection over t: everything moves by t in its helpful direction, up to the border."""
    distance = offset - float(normal @ x)
    sign = torch.sign(normal) * math.copysign(1, distance)

    def moved(t):
        return (x + sign * t).clamp(0, 1) - x

    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if abs(float(normal @ moved(middle))) < abs(distance) else (low, middle)
    return moved(high)


def test_projection_is_the_smallest_change_onto_the_hyperplane():
    draws = generator("project")
    x = torch.rand(40, 30, generator=draws, dtype=torch.float64)
    x[:, :5] = x[:, :5].round()  # pixels at the border
    normal = torch.randn(40, 30, generator=draws, dtype=torch.float64)
    offset = (normal * x).sum(1) + torch.linspace(-4, 4, 40, dtype=torch.float64)
    found = fab.project(x, normal, offset)
    for i in range(40):
        expected = smallest_change(x[i], normal[i], float(offset[i]))
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-9)
        assert float(normal[i] @ (x[i] + found[i])) == pytest.approx(float(offset[i]), abs=1e-9)
    assert (x + found).min() >= 0 and (x + found).max() <= 1


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_newtons_steps_suffice_whatever_the_normals_and_the_room(spread):
    """Also where entries of the normal, and room, are of many orders of magnitude."""
    draws = generator("newton", spread)
    x = torch.rand(300, 3072, generator=draws, dtype=torch.float64) ** (2 * spread)
    normal = torch.randn(300, 3072, generator=draws, dtype=torch.float64)
    normal = normal * (spread * torch.randn(300, 3072, generator=draws, dtype=torch.float64)).exp()
    farthest = (normal * ((normal > 0).double() - x)).sum(1)  # up the normal, as far as [0,1] goes
    share = torch.linspace(0.001, 0.999, 300, dtype=torch.float64)
    found = fab.project(x, normal, (normal * x).sum(1) + share * farthest)
    reached = (normal * found).sum(1) / farthest
    torch.testing.assert_close(reached, share, rtol=0, atol=1e-6)


def test_projection_onto_a_plane_that_the_box_does_not_meet_goes_as_far_as_it_can():
    x, normal = (
        torch.full((2, 4), 0.3, dtype=torch.float64),
        torch.tensor([[1.0, -2.0, 0.5, 0.0]] * 2, dtype=torch.float64),
    )
    found = x + fab.project(x, normal, torch.tensor([100.0, -100.0], dtype=torch.float64))
    assert found.tolist() == [[1.0, 0.0, 1.0, 0.3], [0.0, 1.0, 0.0, 0.3]]
    assert not fab.project(x, torch.zeros_like(x), torch.ones(2, dtype=torch.float64)).any()


def test_squares_sides_follow_the_rescaled_schedule():
    sides = square_attack.sides(5000, 0.8, 32.0).tolist()
    limits = [
        (5, 0.8),
        (25, 0.4),
        (100, 0.2),
        (250, 0.1),
        (500, 0.05),
        (1000, 0.025),
        (2000, 0.0125),
        (3000, 0.00625),
        (4000, 0.003125),
        (4999, 0.0015625),
    ]
    for query, share in limits:
        assert sides[query] == max(round(math.sqrt(share * 1024)), 1), query
    assert all(a >= b for a, b in itertools.pairwise(sides)) and len(sides) == 5000


def test_square_starts_with_stripes_and_then_moves_one_square(network):
    model = pixel_model(network)
    seen = []

    def watched(pixels):
        seen.append(pixels.clone())
        return model(pixels)

    images = 0.1 + 0.8 * data(1)[0]  # away from the border
    labels = model(images).argmax(1)
    square_attack.square(
        watched,
        images,
        labels,
        epsilon=0.02,
        draws=lambda position: generator("s", position),
        batch_size=1,
        queries=30,
        p_init=0.8,
    )
    change = seen[0] - images
    torch.testing.assert_close(change, change[:, :, :1].expand_as(change))  # the same down each column
    torch.testing.assert_close(
        (seen[0] - images).abs().amax(), torch.tensor(0.02, dtype=torch.float64), rtol=1e-9, atol=0
    )
    for query in range(1, len(seen)):
        assert (
            (seen[query] - images).abs().max() <= 0.02 + 1e-12
            and 0 <= seen[query].min()
            and seen[query].max() <= 1
        )


@pytest.mark.parametrize("norm", ["pgd100-l2"])
def test_l2_attack_stays_in_its_ball(norm, network):
    images, _ = data(12)
    model = pixel_model(network)
    labels = model(images).argmax(1)
    found, broken = attacks.run(norm, model, images, labels, epsilon=0.3)
    assert (
        ((found - images).flatten(1).norm(dim=1) <= 0.3 + 1e-9).all()
        and 0 <= found.min()
        and found.max() <= 1
    )
    assert (found != images).any() and torch.equal(broken, model(found).argmax(1) != labels)


def test_the_prepared_copy_is_the_same_function_and_leaves_the_model_alone(network):
    model, (images, _) = pixel_model(network), data(9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = prepare.prepared(model, images)
    assert copy is not model and not any(
        isinstance(module, torch.nn.BatchNorm2d) for module in copy.modules()
    )
    torch.testing.assert_close(copy(images), model(images), rtol=1e-9, atol=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()) and all(
        p.requires_grad for p in model.parameters()
    )


class Branching(torch.nn.Module):
    """Cannot be traced, as its path depends on its input."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, pixels):
        return self.inner(pixels) if pixels.mean() > 0.1 else -self.inner(pixels)


class Residual(torch.nn.Module):
    """Needs what goes into its ReLU once more: in the sum (kind 'sum'), or in the sigmoid's gradient."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.relu, self.head = kind, torch.nn.ReLU(), torch.nn.Linear(3 * 64, 3).double()

    def forward(self, pixels):
        x = torch.sigmoid(pixels - 0.5)
        if self.kind == "sum":
            x = x - 0.5
            return self.head((self.relu(x) + x).flatten(1))
        return self.head((self.relu(x) * 2).flatten(1))


@pytest.mark.parametrize("kind", ["sum", "gradient"])
def test_a_relu_whose_input_is_needed_elsewhere_does_not_overwrite_it(kind):
    torch.manual_seed(0)
    model, (images, _) = Residual(kind).eval(), data(9)
    copy = prepare.prepared(model, images)
    assert copy is not model and not model.relu.inplace
    for one, other in zip(prepare._seen(copy, images), prepare._seen(model, images)):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_what_cannot_be_prepared_is_attacked_as_it_is(network):
    images, _ = data(12)
    plain, branching = pixel_model(network), Branching(pixel_model(network)).eval()
    labels = plain(images).argmax(1)
    assert prepare.prepared(branching, images) is branching
    for name in ("pgd20", "apgd-ce-10"):
        one, other = (
            attacks.run(name, model, images, labels, epsilon=6 / 255)[1] for model in (plain, branching)
        )
        assert torch.equal(one, other)


def test_squares_reach_every_place_that_they_may():
    """The corner of a square of side 3 in 8 pixels is, as in the published code, uniform over 0 to 4."""
    side = torch.tensor([3] * 4000)
    _, corners, _ = square_attack._drawn(torch.tensor([0]), lambda _: generator("squares"), side, 3, 8, 8)
    for axis in range(2):
        counts = corners[0, :, axis].bincount()
        assert len(counts) == 5 and (counts / 4000 - 0.2).abs().max() < 0.04

"""Every iterate of APGD, FAB, Square and PGD in L2 on one image, against plain transcriptions in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import pixel_model
from test_attack_parts import smallest_change
from test_attacks import data

from guard.attacks import apgd, ball, fab, gradient_signs, square_attack
from guard.run.seeds import generator

EPSILON = 2 / 255


def draws(position, part=""):
    return generator("iterates", position, part)


@pytest.fixture
def watched(network):
    """(model, seen): a model that writes down all that goes through it."""
    inner, seen = pixel_model(network), []

    def model(pixels):
        seen.extend(pixels.detach().clone())
        return inner(pixels)

    return model, seen


def standing(model, seen, count, start=0):
    """Images away from the border, of the class that the model gives them: [(image, label)]."""
    images = 0.1 + 0.8 * data(count, start)[0]
    labels = model(images).argmax(1)
    seen.clear()
    return list(zip(images.split(1), labels.split(1)))


def slope_of(loss_of, x):
    x = x.clone().requires_grad_()
    value = loss_of(x[None])
    return value.item(), torch.autograd.grad(value, x)[0]


# ---- APGD ----------------------------------------------------------------------------------------


def naive_apgd(loss_of, image, start, epsilon, checkpoints, steps):
    """Algorithm 1 of Croce and Hein for one image that stands; all its iterates."""
    low, high = (image - epsilon).clamp(min=0), (image + epsilon).clamp(max=1)

    def into_ball(x):
        return x.maximum(low).minimum(high)

    step, x, before = 2 * epsilon, start, start
    value, slope = slope_of(loss_of, x)
    best, best_value, best_slope = x, value, slope
    iterates, values, last = [x], [value], (0, None, None)  # checkpoint, step size and best value there
    for k in range(steps):
        moved = into_ball(x + step * slope.sign())
        following = moved if k == 0 else into_ball(x + 0.75 * (moved - x) + 0.25 * (x - before))
        x, before = following, x
        value, slope = slope_of(loss_of, x)
        iterates.append(x)
        values.append(value)
        if value > best_value:
            best, best_value, best_slope = x, value, slope
        if k + 1 in checkpoints:
            since, size_then, best_then = last
            rose = sum(values[i + 1] > values[i] for i in range(since, k + 1))
            last = (k + 1, step, best_value)
            if rose <= 0.75 * (k + 1 - since) or (size_then, best_then) == (step, best_value):
                step, x, slope = step / 2, best, best_slope
    return iterates


def on_the_border(image, part=""):
    noise = 2 * torch.rand(image.shape, generator=draws(0, part), dtype=image.dtype) - 1
    return (image + EPSILON * noise / noise.abs().max()).clamp(0, 1)


@pytest.mark.parametrize("steps", [20, 60])
def test_apgd_is_algorithm_1(steps, watched):
    model, seen = watched
    checkpoints = apgd.looks(steps).nonzero().flatten().tolist()
    for image, label in standing(model, seen, 6):
        _, broken = apgd.auto_pgd(
            model, image, label, epsilon=EPSILON, draws=draws, batch_size=1, steps=steps
        )
        found = torch.stack(seen)
        assert not broken.any()
        start = on_the_border(image[0])
        expected = naive_apgd(
            lambda x, label=label: F.cross_entropy(model(x), label),
            image[0],
            start,
            EPSILON,
            checkpoints,
            steps,
        )
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-9)
        seen.clear()


def test_targeted_apgd_goes_towards_each_other_class_in_turn(watched):
    """With three classes the loss is z_t - z_y; each target has a start of its own."""
    model, seen = watched
    checkpoints = apgd.looks(10).nonzero().flatten().tolist()
    ((image, label),) = standing(model, seen, 1)
    apgd.targeted_auto_pgd(
        model, image, label, targets=9, epsilon=EPSILON, draws=draws, batch_size=1, steps=10
    )
    found = torch.stack(seen[1:])  # the first pass ranks the classes
    expected = []
    for rank, target in enumerate(model(image)[0].argsort(descending=True)[1:].tolist()):

        def loss_of(x, target=target):
            return model(x)[0, target] - model(x)[0, label.item()]

        start = on_the_border(image[0], f"target {rank}")
        expected += naive_apgd(loss_of, image[0], start, EPSILON, checkpoints, 10)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-9)


# ---- FAB -----------------------------------------------------------------------------------------


def naive_fab(model, image, label, target, epsilon, steps):
    """(iterates before they move back, the first that is misclassified within epsilon, or None)."""
    x, iterates = image, []
    for _ in range(steps):
        difference, normal = slope_of(lambda y: model(y)[0, target] - model(y)[0, label], x)
        offset = float((normal * x).sum()) - difference
        to_x, to_image = (
            smallest_change(point.flatten(), normal.flatten(), offset).view_as(image) for point in (x, image)
        )
        alpha = min(float(to_x.abs().max() / (to_x.abs().max() + to_image.abs().max())), 0.1)
        x = ((1 - alpha) * (x + 1.05 * to_x) + alpha * (image + 1.05 * to_image)).clamp(0, 1)
        iterates.append(x)
        if model(x[None]).argmax() != label:
            if (x - image).abs().max() <= epsilon:
                return iterates, x
            x = image + 0.9 * (x - image)
    return iterates, None


@pytest.mark.parametrize("share", [0.5, 1.01])
def test_fab_is_its_published_loop(share, watched):
    """At an epsilon that is too small, and just at the distance that it finds."""
    model, seen = watched
    compared = 0
    for image, label in standing(model, seen, 4):
        target = (label + 1) % 3
        given = image[0], label.item(), target.item()
        farther, _ = naive_fab(model, *given, 0, 8)
        fooling = [x for x in farther if model(x[None]).argmax() != label]
        if not fooling:
            continue
        epsilon = share * min((x - image[0]).abs().max().item() for x in fooling)
        expected, broken_by = naive_fab(model, *given, epsilon, 8)
        compared += 1
        seen.clear()
        found, broken = fab.fast_adaptive_boundary(
            model, image, label, targets=target, epsilon=epsilon, draws=None, batch_size=1, steps=8
        )
        # Each iterate is judged by a pass of its own, after the one that the gradient is taken of.
        torch.testing.assert_close(torch.stack(seen[1::2]), torch.stack(expected), rtol=0, atol=1e-7)
        assert broken.item() == (broken_by is not None) == (share > 1)
        wanted = image[0] if broken_by is None else broken_by
        torch.testing.assert_close(found[0], wanted, rtol=0, atol=1e-7)
    assert compared


def test_targeted_fab_goes_towards_each_other_class_in_turn(watched):
    """The likeliest first, each from the image itself; at an epsilon at which none is reached."""
    model, seen = watched
    ((image, label),) = standing(model, seen, 1)
    expected = []
    for target in model(image)[0].argsort(descending=True)[1:].tolist():
        expected += naive_fab(model, image[0], label.item(), target, 1e-6, 8)[0]
    seen.clear()
    fab.targeted_fab(model, image, label, targets=9, epsilon=1e-6, draws=None, batch_size=1, steps=8)
    found = torch.stack(seen[1:])  # the first pass ranks the classes
    torch.testing.assert_close(found[1::2], torch.stack(expected), rtol=0, atol=1e-7)


# ---- Square --------------------------------------------------------------------------------------


def test_square_moves_one_square_of_its_best_iterate_at_each_query(watched):
    """Each channel to a side of the ball, from stripes that are the same down each column; kept where it
    lowers the margin.
    """
    model, seen = watched
    sides = square_attack.sides(40, 0.8, 8.0).tolist()
    corners, one_sign, stripes = set(), [], []
    for image, label in standing(model, seen, 8):
        square_attack.square(
            model, image, label, epsilon=EPSILON, draws=draws, batch_size=1, queries=40, p_init=0.8
        )
        changes = [(x - image[0]) / EPSILON for x in seen]
        assert len(changes) == 40
        assert all(((change.abs() - 1).abs() < 1e-9).all() for change in changes)
        torch.testing.assert_close(changes[0], changes[0][:, :1].expand(3, 8, 8))
        stripes.append(changes[0][:, 0].round())
        best, lowest = None, torch.inf
        for query, (x, change) in enumerate(zip(list(seen), changes)):
            if best is not None:
                moved = (change - best).abs().amax(0) > 1e-9
                rows, columns = (moved.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
                for places in (rows, columns):
                    assert not places or places[-1] - places[0] < sides[query - 1]
                if len(rows) == len(columns) == sides[query - 1]:
                    corners.add((rows[0], columns[0]))
                    inside = change[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                    assert all(one.unique().numel() == 1 for one in inside.round())
                    one_sign.append(inside.round().unique().numel() == 1)
            logits = model(x[None])[0].tolist()
            own = logits.pop(label.item())
            if own - max(logits) < lowest:
                best, lowest = change, own - max(logits)
        seen.clear()
    stripes = torch.stack(stripes)  # (images, channels, columns): each has a sign of its own
    assert all(one.unique().tolist() == [-1, 1] for one in stripes.flatten(0, 1).unbind()[:3])
    assert not torch.equal(stripes[:, 0], stripes[:, 1])
    assert any(row != column for row, column in corners)
    assert any(one_sign) and not all(one_sign)  # each channel has a side of its own


# ---- PGD in L2 -----------------------------------------------------------------------------------


def test_pgd_in_l2_is_the_naive_loop(watched):
    model, seen = watched
    for image, label in standing(model, seen, 4):
        gradient_signs.gradient_steps(
            model, image, label, epsilon=0.05, draws=draws, batch_size=1, relative_step=0.25, steps=20
        )
        found, image = list(seen), image[0]
        assert len(found) == 21 and (found[0] - image).norm() <= 0.05
        for x, following in itertools.pairwise(found):
            _, slope = slope_of(lambda y, label=label: F.cross_entropy(model(y), label), x)
            change = x + 0.25 * 0.05 * slope / slope.norm() - image
            expected = (image + change * min(1, 0.05 / change.norm().item())).clamp(0, 1)
            torch.testing.assert_close(following, expected, rtol=0, atol=1e-9)
        seen.clear()


def test_the_start_in_l2_is_uniform_in_the_ball():
    """In D dimensions the D-th power of the distance is uniform in [0,1]."""
    images = torch.zeros(600, 3, 2, 2, dtype=torch.float64)
    changes = ball.uniform_in_unit_ball(images, torch.arange(600), draws).flatten(1)
    shares = changes.norm(dim=1) ** 12
    expected = (torch.arange(600) + 0.5) / 600
    assert (shares.sort().values - expected).abs().max() < 0.07  # 1.36 / sqrt(600) is exceeded once in 20
    assert (changes.mean(0).abs() < 0.05).all()

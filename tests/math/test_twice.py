"""Convolutions with derivatives of their own: those of torch, of every order, and nothing left behind."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from guard.networks import models
from guard.networks.twice import Geometry, convolved, twice_differentiable

GEOMETRIES = {
    "3x3": ((4, 3, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 1)),
    "stride": ((4, 3, 3, 3), Geometry((2, 2), (1, 1), (1, 1), 1)),
    "stride that leaves pixels out": ((4, 3, 2, 2), Geometry((2, 3), (0, 0), (1, 1), 1)),
    "dilation": ((4, 3, 3, 3), Geometry((1, 1), (2, 1), (2, 1), 1)),
    "groups": ((6, 1, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 3)),
    "1x1": ((5, 3, 1, 1), Geometry((1, 1), (0, 0), (1, 1), 1)),
}


def arguments(shape, with_bias=True):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, 6, 7), torch.randn(*shape), torch.randn(shape[0])
    made = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    return made if with_bias else [*made[:2], None]


def derivatives(function, x, weight, bias, first):
    """Gradients by `first` of a function of the convolution, and those of these by all, and once more."""
    everything = [tensor for tensor in (x, weight, bias) if tensor is not None]
    one = torch.autograd.grad(function(x, weight, bias).pow(3).sum(), first, create_graph=True)
    wanted = {"allow_unused": True, "materialize_grads": True}
    two = torch.autograd.grad(sum(t.pow(2).sum() for t in one), everything, create_graph=True, **wanted)
    three = torch.autograd.grad(sum(t.pow(2).sum() for t in two), everything, **wanted)
    return [*one, *two, *three]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_all_derivatives_up_to_the_third_are_those_of_torch(name, with_bias):
    shape, geometry = GEOMETRIES[name]
    x, weight, bias = arguments(shape, with_bias)
    everything = [tensor for tensor in (x, weight, bias) if tensor is not None]

    def ours(*tensors):
        return convolved(*tensors, geometry)

    def theirs(*tensors):
        return F.conv2d(*tensors, *geometry)

    assert torch.equal(ours(x, weight, bias), theirs(x, weight, bias))
    for count in range(1, len(everything) + 1):
        for first in itertools.combinations(everything, count):
            found, expected = (derivatives(each, x, weight, bias, first) for each in (ours, theirs))
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())


LAYERS = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "pool": nn.AvgPool2d(2),
    "hard sigmoid": nn.Hardsigmoid(),
    "pool that leaves pixels out": nn.AvgPool2d(2, stride=3),
    "pool with padding": nn.AvgPool2d((3, 2), stride=(2, 1), padding=1, count_include_pad=False),
    "pool beyond the edge": nn.AvgPool2d(3, ceil_mode=True, divisor_override=5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_all_derivatives_of_the_other_layers_are_those_of_torch(name):
    layer = LAYERS[name]
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = arguments((4, 3, 3, 3))[0]

    def of(x, weight, bias):
        del bias
        return layer(F.conv2d(x, weight, padding=1) + 0)

    weight.requires_grad_()
    theirs = of
    if name == "hard sigmoid":  # of which torch has no second one

        def theirs(x, weight, bias):
            del bias
            seen = F.conv2d(x, weight, padding=1)
            return torch.where(seen < -3, 0, torch.where(seen > 3, 1, seen / 6 + 0.5))

    expected = [theirs(x, weight, None), *derivatives(theirs, x, weight, None, (x,))]
    with twice_differentiable(layer):
        assert "forward" in vars(layer)
        found = [of(x, weight, None), *derivatives(of, x, weight, None, (x,))]
    assert "forward" not in vars(layer)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())


def normalizing(affine=True, momentum=0.1, tracked=True):
    torch.manual_seed(3)
    layer = nn.BatchNorm2d(3, affine=affine, momentum=momentum, track_running_stats=tracked).double()
    if affine:
        nn.init.uniform_(layer.weight, 0.5, 2)
        nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("kind", [{}, {"affine": False}, {"momentum": None}, {"tracked": False}])
def test_batch_norm_of_the_mini_batch_has_the_derivatives_of_torch(kind):
    x, out = arguments((4, 3, 3, 3))[0], []
    weights = torch.randn(3, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    for ours in (False, True):
        layer = normalizing(**kind)

        def of(x, layer=layer):
            return layer(F.conv2d(x, weights, padding=1)).sin()

        def seen(of=of, layer=layer):
            wanted = [x, weights, *layer.parameters()]
            values = of(x)
            first = torch.autograd.grad(values.pow(3).sum(), wanted, create_graph=True)
            second = [
                torch.autograd.grad(first[place].pow(2).sum(), wanted, retain_graph=True, allow_unused=True)
                for place in range(len(wanted))
            ]
            return [values, *first, *itertools.chain(*second), *layer.buffers()]

        if ours:
            with twice_differentiable(layer):
                out.append(seen())
        else:
            out.append(seen())
    for one, other in zip(*out, strict=True):
        if one is None or other is None:
            assert one is other or not (one if other is None else other).any()
        else:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9 * max(1, other.abs().max().item()))


def test_batch_norm_in_eval_mode_stays_as_it_is():
    layer, x = normalizing().eval(), arguments((4, 3, 3, 3))[0]
    expected = layer(x)
    with twice_differentiable(layer):
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("name", ["stride", "dilation", "groups"])
def test_first_and_second_derivatives_agree_with_finite_differences(name):
    shape, geometry = GEOMETRIES[name]
    inputs = arguments(shape)
    inputs[0] = inputs[0].detach()[:1, :, :4, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *tensors: convolved(*tensors, geometry).pow(2), inputs)
    assert torch.autograd.gradgradcheck(lambda *tensors: convolved(*tensors, geometry).pow(2), inputs)


@pytest.mark.parametrize("wanted", list(itertools.product([True, False], repeat=3)))
def test_what_needs_no_gradient_gets_none(wanted):
    shape, geometry = GEOMETRIES["3x3"]
    inputs = [tensor.detach().requires_grad_(needs) for tensor, needs in zip(arguments(shape), wanted)]
    outputs = convolved(*inputs, geometry)
    assert outputs.requires_grad == any(wanted)
    if any(wanted):
        outputs.pow(2).sum().backward()
    assert [tensor.grad is not None for tensor in inputs] == list(wanted)


def calls_of(run, *names):
    """(name, shapes of the inputs) of each call of an operation of these names."""
    with torch.profiler.profile(record_shapes=True, acc_events=True) as profile:
        run()
    return [(event.name, event.input_shapes) for event in profile.events() if event.name in names]


def differentiations():
    """Two functions that differentiate a network on 7 images twice: as torch does it, and as is done here."""
    network = models.ConvNet(3, 8, width=5).eval()
    x = torch.randn(7, 3, 8, 8, requires_grad=True)

    def outside():
        (gradient,) = torch.autograd.grad(network(x).pow(2).sum(), x, create_graph=True)
        gradient.pow(2).sum().backward()

    def inside():
        with twice_differentiable(network):
            outside()

    return outside, inside


def test_the_gradient_by_the_images_does_not_compute_that_of_the_weights():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 5, 3))
    x = torch.randn(7, 3, 9, 9, requires_grad=True)

    def differentiate():
        with twice_differentiable(network):
            torch.autograd.grad(network(x).sum(), x, create_graph=True)

    # Two convolutions, and for each the gradient by what goes into it.
    assert len(calls_of(differentiate, "aten::convolution_backward")) == 2


def test_no_convolution_takes_images_for_channels():
    def mixed(run):
        return [shapes for _, shapes in calls_of(run, "aten::convolution") if shapes[0][1] == 7]

    outside, inside = differentiations()
    assert mixed(outside)  # else this test could not fail
    assert not mixed(inside)


def test_nothing_is_filled_with_zeros_of_the_size_of_the_activations():
    def filled(run):
        calls = calls_of(run, "aten::zeros", "aten::zeros_like")
        return [shapes for _, shapes in calls if [7, 5, 8, 8] in shapes]

    outside, inside = differentiations()
    assert filled(outside)
    assert not filled(inside)


class Odd(nn.Conv2d):
    """A convolution of somebody's own."""


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 3, padding="same"),
        Odd(3, 4, 3),
        nn.Conv1d(3, 4, 3),
    ],
)
def test_other_convolutions_stay_as_they_are(layer):
    with twice_differentiable(nn.Sequential(layer)):
        assert "_conv_forward" not in vars(layer)


def test_in_bf16_it_is_the_convolution_of_torch_and_the_weights_get_float32():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        with twice_differentiable(layer):
            found = layer(x)
        assert found.dtype == torch.bfloat16 and torch.equal(found, expected)
        found.float().pow(2).sum().backward()
    gradients = layer.weight.grad.clone(), layer.bias.grad.clone()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().pow(2).sum().backward()
    for mine, theirs in zip(gradients, (layer.weight.grad, layer.bias.grad)):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2 * theirs.abs().max().item())


def test_after_an_error_the_layers_are_as_before():
    network = models.ConvNet(3, 8, width=5)
    with pytest.raises(ZeroDivisionError), twice_differentiable(network):
        assert any("_conv_forward" in vars(module) for module in network.modules())
        raise ZeroDivisionError
    assert not any("_conv_forward" in vars(module) for module in network.modules())

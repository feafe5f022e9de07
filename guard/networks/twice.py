"""Networks that are differentiated twice: first by their images, then by their weights.

torch gives the weights of a convolution their second-order gradient by a convolution in which the images of
the mini-batch are the channels, a shape that no kernel was made for, after copies of all activations. Here
each derivative of a convolution is one of the three operations that training consists of anyway: the
convolution, its gradient by the input and its gradient by the weights. For the second derivatives of ReLU and
of average pools, which are zero, torch fills and adds up zeros for all activations. Here there are none. That
of batch norm by the mini-batch's own statistics is dozens of sums over all activations there, here two passes
of its gradient.
"""

import contextlib
import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.utils import _pair


@contextlib.contextmanager
def twice_differentiable(network):
    """While inside, `network` has quick second derivatives; its values and its weights stay as they are.

    Attention is computed by the kernel that has a second derivative. A compiled network stays as it is.
    """
    modules = list(network.modules())
    compiled = any(module._compiled_call_impl is not None for module in modules)
    changed = {} if compiled else {module: new for module in modules if (new := _instead(module))}
    try:
        for module, (name, function) in changed.items():
            setattr(module, name, function)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, (name, _) in changed.items():
            vars(module).pop(name, None)


def _instead(module):
    """(name of a method, what is called in its place), or None for a layer that stays as it is."""
    if type(module) is nn.ReLU:
        return "forward", _Relu.apply
    if type(module) is nn.Hardsigmoid:
        return "forward", lambda x: F.relu6(x + 3) / 6
    if type(module) is nn.BatchNorm2d:
        return "forward", functools.partial(_batch_normalized, module)
    if type(module) is nn.AvgPool2d:
        sizes = [_pair(size) for size in (module.kernel_size, module.stride, module.padding)]
        window = *sizes, module.ceil_mode, module.count_include_pad, module.divisor_override
        return "forward", lambda x: _Averages.apply(x, window)
    if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
        geometry = Geometry(module.stride, module.padding, module.dilation, module.groups)
        return "_conv_forward", functools.partial(convolved, geometry=geometry)
    return None


# ---- ReLU and average pool -----------------------------------------------------------------------


class _Relu(Function):
    @staticmethod
    def forward(ctx, x):
        values = torch.relu(x)
        ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        return _WherePositive.apply(gradient, values.detach())


class _WherePositive(Function):
    """The gradient where the values are above zero, else zero: its own derivative."""

    @staticmethod
    def forward(ctx, gradient, values):
        ctx.save_for_backward(values)
        return torch.ops.aten.threshold_backward(gradient, values, 0)

    @staticmethod
    def backward(ctx, direction):
        (values,) = ctx.saved_tensors
        return _WherePositive.apply(direction, values), None


class _Averages(Function):
    @staticmethod
    def forward(ctx, x, window):
        ctx.save_for_backward(x)
        ctx.window = window
        return torch.ops.aten.avg_pool2d(x, *window)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return _Spread.apply(gradient, x.detach(), ctx.window), None


class _Spread(Function):
    """Each average's gradient given to what it is of, linear in it. like: has the shape of the input."""

    @staticmethod
    def forward(ctx, gradient, like, window):
        ctx.window = window
        return torch.ops.aten.avg_pool2d_backward(gradient, like, *window)

    @staticmethod
    def backward(ctx, direction):
        return _Averages.apply(direction, ctx.window), None, None


# ---- batch norm ----------------------------------------------------------------------------------


def _batch_normalized(norm, x):
    """What the layer `norm` makes of x (B, C, H, W)."""
    if not norm.training:
        return type(norm).forward(norm, x)
    means = variances = None
    factor = 0.0
    if norm.track_running_stats:
        norm.num_batches_tracked += 1
        factor = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
        means, variances = norm.running_mean, norm.running_var
    return _BatchNorm.apply(x, norm.weight, norm.bias, means, variances, factor, norm.eps)


class _BatchNorm(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, means, variances, factor, eps):
        values, mean, scale = torch.ops.aten.native_batch_norm(
            x, weight, bias, means, variances, True, factor, eps
        )
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps = eps
        return values

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, scale = ctx.saved_tensors
        given = torch.ones_like(mean) if weight is None else weight
        of_x, of_weight, of_bias = _BatchNormGradients.apply(gradient, x, given, mean, scale, ctx.eps)
        of_parameters = (None, None) if weight is None else (of_weight, of_bias)
        return of_x, *of_parameters, None, None, None, None


class _BatchNormGradients(Function):
    """(gradient g, input x, weight w) -> gradients by input, weight and bias, for each channel

    w r P(g), sum g n and sum g, where r is 1 over the standard deviation, n = (x - mean) r are the normalized
    activations, and P(g) = g - mean(g) - n mean(g n) is what is left of g beside the mean and n.

    Of u, which the first of the three goes with, the gradients are w r P(u) by g, r A by w, and by x

        -r/B (w r A n + sum(g n) w r P(u) + sum(u n) w r P(g)),
        A = sum u P(g) = sum u g - (sum u sum g + sum u n sum g n) / B,

    B the number of a channel's activations, since P is symmetric, dr/dx = -r^2 n / B, and a gradient q by n
    is r P(q) by x.
    """

    @staticmethod
    def forward(ctx, gradient, x, weight, mean, scale, eps):
        of_x, of_weight, of_bias = _gradients(gradient, x, weight, mean, scale, eps)
        ctx.save_for_backward(gradient, x, weight, mean, scale, of_x, of_weight, of_bias)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return of_x, of_weight, of_bias

    @staticmethod
    @once_differentiable
    def backward(ctx, u, u_weight, u_bias):
        g, x, weight, mean, scale, of_x, sum_gn, sum_g = ctx.saved_tensors
        if u is None:
            by_g, by_x, by_weight = torch.zeros_like(g), torch.zeros_like(x), None
        else:
            of_u, sum_un, sum_u = _gradients(u, x, weight, mean, scale, ctx.eps)
            sum_ug = _gradients(u, g, weight, torch.zeros_like(mean), torch.ones_like(scale), ctx.eps)[1]
            count = x.numel() / x.shape[1]
            a = sum_ug - (sum_u * sum_g + sum_un * sum_gn) / count
            by_weight, shared = scale * a, -scale / count
            by_g = of_u
            by_x = of_u * _of_channels(shared * sum_gn, x)
            by_x.addcmul_(of_x, _of_channels(shared * sum_un, x))
            _add_centred(by_x, x, mean, shared * weight * scale**2 * a)
        if u_weight is not None:
            by_g = by_g.clone()
            _add_centred(by_g, x, mean, scale * u_weight)
            by_x += _gradients(g, x, u_weight, mean, scale, ctx.eps)[0]
        if u_bias is not None:
            by_g = by_g + _of_channels(u_bias, g)
        return by_g, by_x, by_weight, None, None, None


def _gradients(gradient, x, weight, mean, scale, eps):
    """Batch norm's gradients by input, weight and bias: (B, C, H, W), (C,), (C,)."""
    return torch.ops.aten.native_batch_norm_backward(
        gradient, x, weight, None, None, mean, scale, True, eps, (True, True, True)
    )


def _of_channels(factors, like):
    """(C,) as what activations (B, C, H, W) are multiplied by."""
    return factors.to(like.dtype).view(1, -1, 1, 1)


def _add_centred(total, x, mean, factors):
    """total += (x - mean) times factors, which as well as the means are those of the channels, (C,)."""
    total.addcmul_(x, _of_channels(factors, x)).sub_(_of_channels(factors * mean, x))


# ---- convolution ---------------------------------------------------------------------------------


class Geometry(NamedTuple):
    """What a convolution is besides its weights; pairs of numbers, vertical and horizontal, and groups."""

    stride: tuple
    padding: tuple
    dilation: tuple
    groups: int

    def convolution(self, x, weight, bias=None):
        return torch.ops.aten.convolution(x, weight, bias, *self._arguments())

    def gradient(self, gradient, x, weight, by_input):
        """The gradient by the input, or else that by the weights."""
        wanted = by_input, not by_input, False  # the last is that by the bias
        found = torch.ops.aten.convolution_backward(gradient, x, weight, None, *self._arguments(), wanted)
        return found[wanted.index(True)]

    def _arguments(self):
        return self.stride, self.padding, self.dilation, False, (0, 0), self.groups


def convolved(x, weight, bias, geometry):
    """conv2d(x, weight, bias), of which all derivatives are as in this module's first lines.

    x: (B, C, H, W). weight: (K, C / groups, h, w). bias: (K,) or None.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        narrow = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(narrow), weight.to(narrow), bias if bias is None else bias.to(narrow)
    with torch.no_grad():
        values = geometry.convolution(x, weight, bias)
    weights_part = _WeightsPart.apply(weight, bias, (x,), values.shape, geometry)
    return _Convolved.apply(x, weights_part, values, weight, geometry)


class _Convolved(Function):
    """values, as a function of the input and of a _WeightsPart.

    The engine of autograd knows what is wanted of the whole function alone. That the weights have a part of
    their own saves their gradient where that by the images is asked for.
    """

    @staticmethod
    def forward(ctx, x, weights_part, values, weight, geometry):
        del weights_part
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        ctx.mark_dirty(values)  # it is handed on as it is
        return values

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = _Gradient.apply(gradient, weight, x.detach(), ctx.geometry, True)
        return of_x, gradient, None, None, None


class _WeightsPart(Function):
    """Zeros in the shape of the convolution, which take no memory; their gradient is that of the weights.

    x: in a tuple, for this is no function of it.
    """

    @staticmethod
    def forward(ctx, weight, bias, x, shape, geometry):
        ctx.save_for_backward(weight)
        ctx.x, ctx.has_bias, ctx.geometry = x, bias is not None, geometry
        return weight.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_weight = _Gradient.apply(gradient, *ctx.x, weight.detach(), ctx.geometry, False)
        if ctx.has_bias and ctx.needs_input_grad[1]:
            of_bias = gradient.sum((0, 2, 3))
        return of_weight, of_bias, None, None, None


class _Gradient(Function):
    """(gradient, weights) -> the gradient by the input, or (gradient, input) -> that by the weights.

    Linear in both. like: has the shape of the result.
    """

    @staticmethod
    def forward(ctx, gradient, other, like, geometry, by_input):
        ctx.save_for_backward(gradient, other)
        ctx.geometry, ctx.by_input = geometry, by_input
        x, weight = (like, other) if by_input else (other, like)
        return geometry.gradient(gradient, x, weight, by_input)

    @staticmethod
    def backward(ctx, direction):
        gradient, other = ctx.saved_tensors
        of_gradient = of_other = None
        if ctx.needs_input_grad[0]:
            x, weight = (direction, other) if ctx.by_input else (other, direction)
            of_gradient = convolved(x, weight, None, ctx.geometry)
        if ctx.needs_input_grad[1]:
            of_other = _Gradient.apply(gradient, direction, other.detach(), ctx.geometry, not ctx.by_input)
        return of_gradient, of_other, None, None, None

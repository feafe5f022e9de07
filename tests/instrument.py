"""A stand-in for a GPU: tensors that claim to be on cuda:0 and compute on the CPU.

    with Instrument() as instrument:
        model.to(GPU)
        with instrument.counting() as counts:
            model(images.to(GPU))

Whatever a GPU would refuse raises a Mixed: an op, an index or a mask that mixes the device with a tensor of
the CPU (but for 0-dim ones, which are constants), a generator of another device, and a copy between devices
that nobody asked for by name. What a GPU would do slowly is counted: ops, reads and copies.

Below autograd the stand-in's device is meta, which computes nothing by itself: so what C++ makes beside a
stand-in can be told from what it makes on the CPU, and the autograd engine needs no driver.
"""

import contextlib
from dataclasses import asdict, dataclass
from unittest import mock

import torch
from torch.optim.optimizer import _foreach_supported_types
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_flatten, tree_map

from guard.run import graphs

GPU = torch.device("cuda", 0)
META, CPU = torch.device("meta"), torch.device("cpu")
FREE_MEMORY = 2**36  # bytes that the stand-in claims to have

aten = torch.ops.aten
# Ops whose result has a size, or is a number, that the host has to wait for.
READING = {
    aten._local_scalar_dense.default: "item",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "mask",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten._linalg_check_errors.default: "linalg",
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# Where somebody asked for a copy between devices.
NAMED_COPIES = {torch.Tensor.copy_, torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda}
# What autocast computes in bfloat16.
PRODUCTS = {torch.conv2d, torch.nn.functional.linear, torch.matmul, torch.Tensor.matmul, torch.bmm}
PRODUCTS |= {torch.Tensor.__matmul__, torch.mm, torch.nn.functional.scaled_dot_product_attention}
MAKERS = {torch.tensor, torch.as_tensor, torch.asarray}  # of tensors from numbers on the host


class Mixed(RuntimeError):
    """What a GPU would have refused, or done in silence."""


class OnDevice(torch.Tensor):
    """A tensor of the stand-in. held: the same numbers in an ordinary tensor on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=META,
        )
        made.held = held
        return made

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def get_device(self):
        return GPU.index

    def __repr__(self, *, tensor_contents=None):
        inside = isinstance(_get_current_dispatch_mode(), _Ops)  # else a debugger or a report looks
        return f"on {GPU}: {self.cpu() if inside else self.held!r}"

    def __format__(self, form):
        return format(self.item() if self.dim() == 0 else repr(self), form)

    def __deepcopy__(self, memo):
        made = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            made._is_param = True
        memo[id(self)] = made
        return made

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *_, **__):
        raise TypeError("a tensor of cuda:0 is no array of numpy; call .cpu() first")

    def __array__(self, *_, **__):
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise Mixed(f"{function} outside of an Instrument")


class Generator(torch.Generator):
    """A torch.Generator that knows whether it is one of the stand-in's."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.there = torch.device(device) != CPU  # which makes meta of the stand-in's device
        return made

    @property
    def device(self):
        return GPU if self.there else CPU


@dataclass
class Counts:
    """ops: dispatched on the device, `views` of which only look at memory in another way. reads: from the
    device to the host, each of which waits for all work before it. copies: to the device, of `copied` bytes
    together.
    """

    ops: int = 0
    views: int = 0
    reads: int = 0
    copies: int = 0
    copied: int = 0

    def beyond(self, other):
        """What these are more than `other`."""
        less = asdict(other)
        return Counts(**{name: count - less[name] for name, count in asdict(self).items()})


class Instrument:
    """A context in which torch.device('cuda', 0) is the stand-in.

    names: of the ops so far, in order; reads: what caused each read so far.
    """

    def __init__(self):
        self.counts, self.names, self.reads = Counts(), [], []
        self.asked = 0  # depth of calls that ask for a copy by name
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        autocast = torch.autocast

        def of_host(device_type, *args, **kwargs):
            return autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

        for module, name, value in (
            (torch, "Generator", Generator),
            (torch, "autocast", of_host),
            (torch.cuda, "mem_get_info", lambda *_: (FREE_MEMORY, FREE_MEMORY)),
            (graphs, "captures", lambda *_: False),  # tests/recorded_graph.py stands in for those
        ):
            self.stack.enter_context(mock.patch.object(module, name, value))
        # Optimizers take the ops of a GPU for weights of these types alone.
        _foreach_supported_types.append(OnDevice)
        self.stack.callback(_foreach_supported_types.remove, OnDevice)
        self.stack.enter_context(_Functions(self))
        self.stack.enter_context(_Ops(self))
        return self

    def __exit__(self, *problem):
        return self.stack.__exit__(*problem)

    @contextlib.contextmanager
    def counting(self):
        """The Counts of what is done inside."""
        before, self.counts = self.counts, Counts()
        inside = self.counts
        try:
            yield inside
        finally:
            for name, count in asdict(inside).items():
                setattr(before, name, getattr(before, name) + count)
            self.counts = before

    def note_read(self, cause):
        self.counts.reads += 1
        self.reads.append(cause)

    def note_copy(self, tensor):
        self.counts.copies += 1
        self.counts.copied += tensor.numel() * tensor.element_size()


def standing_in():
    """Whether cuda:0 is the stand-in, and not a GPU."""
    return torch.Generator is Generator


def on_device(tensor):
    """An ordinary tensor's copy on the stand-in, which nobody counts."""
    return OnDevice(tensor.detach().clone())


def held(tensor):
    """What a tensor of the stand-in holds, without a count."""
    return tensor.held if isinstance(tensor, OnDevice) else tensor


# ---- what torch's Python functions are called with -----------------------------------------------


def _to_meta(value):
    return META if isinstance(value, torch.device) and value.type == "cuda" else value


class _Functions(TorchFunctionMode):
    """Above autograd: takes the stand-in for cuda:0, and knows who asks for a copy by name."""

    def __init__(self, instrument):
        super().__init__()
        self.instrument = instrument

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.cuda:
            return args[0].to(META)
        if function is torch.Tensor.pin_memory:
            return args[0]
        if isinstance(kwargs.get("device"), str):
            kwargs["device"] = torch.device(kwargs["device"])
        if function is torch.Tensor.to and len(args) > 1 and isinstance(args[1], str):
            args = args[0], torch.device(args[1]), *args[2:]
        if function in MAKERS and _to_meta(kwargs.get("device")) is META:
            return function(*args, **kwargs | {"device": CPU}).to(META)
        if function is torch.Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(META)
        args, kwargs = tree_map(_to_meta, args), tree_map(_to_meta, kwargs)
        _check_generators(function, args, kwargs)
        if function in PRODUCTS and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map(_narrowed, args), tree_map(_narrowed, kwargs)
        named = function in NAMED_COPIES
        self.instrument.asked += named
        try:
            return function(*args, **kwargs)
        finally:
            self.instrument.asked -= named


def _check_generators(function, args, kwargs):
    flat, _ = tree_flatten((args, kwargs))
    there = any(value is META or isinstance(value, OnDevice) for value in flat)
    for value in flat:
        if isinstance(value, torch.Generator) and (value.device == GPU) != there:
            raise Mixed(f"{function} draws from a generator of {value.device}")


def _narrowed(value):
    wide = isinstance(value, OnDevice) and value.dtype == torch.float32
    return value.to(torch.bfloat16) if wide else value


# ---- what is computed ----------------------------------------------------------------------------


class _Ops(TorchDispatchMode):
    """Below autograd: checks each op, counts it, and does it on what the stand-ins hold."""

    def __init__(self, instrument):
        super().__init__()
        self.instrument = instrument

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, torch.Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        wanted = kwargs.get("device")
        if not ours and wanted != META:
            return function(*args, **kwargs)
        if torch.is_inference_mode_enabled():  # in which nothing above has taken composed ops apart
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        to_device = wanted == META or (wanted is None and bool(ours))
        copying = function in (aten._to_copy.default, aten.copy_.default)
        if not copying:
            self._check(function, tensors, ours)
        self._count(function, args, kwargs, tensors, ours, to_device)
        if wanted is not None:
            kwargs["device"] = CPU
        inner_args, inner_kwargs = tree_map(held, args), tree_map(held, kwargs)
        with torch.inference_mode(False):  # a view of an ordinary tensor is one in inference mode, too
            return self._do(function, args, inner_args, inner_kwargs, ours, to_device)

    def _do(self, function, args, inner_args, inner_kwargs, ours, to_device):
        """The result, of the stand-in where it goes to the device."""
        result = function(*inner_args, **inner_kwargs)
        if function is aten._to_copy.default and not to_device and result is args[0].held:
            result = result.clone()
        if function is aten.copy_.default:
            return args[0]
        if not to_device:
            return result
        same = {id(tensor.held): tensor for tensor in ours}  # an op in place gives back what it was given

        def wrapped(value):
            if not isinstance(value, torch.Tensor):
                return value
            return same[id(value)] if id(value) in same else OnDevice(value)

        return tree_map(wrapped, result)

    def _check(self, function, tensors, ours):
        if len(ours) < len(tensors):
            strangers = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
            if ours and strangers:
                shapes = [tuple(tensor.shape) for tensor in strangers]
                raise Mixed(f"{function} mixes {GPU} with tensors {shapes} of the CPU")

    def _count(self, function, args, kwargs, tensors, ours, to_device):
        instrument, counts = self.instrument, self.instrument.counts
        into = args[0] if function is aten.copy_.default else None
        source = args[1] if into is not None else (args[0] if args else None)
        moved = function is aten._to_copy.default or into is not None
        if moved and isinstance(source, torch.Tensor):
            arrives = isinstance(into, OnDevice) if into is not None else to_device
            leaves = isinstance(source, OnDevice)
            # A constant is no copy of memory. Only `dst[place] = src` copies without a name.
            if into is not None and arrives != leaves and not instrument.asked and source.dim():
                raise Mixed(f"{function} copies {tuple(source.shape)} between devices without being asked")
            if leaves and not arrives:
                return instrument.note_read("copy to the CPU")
            if arrives and not leaves and (into is None or instrument.asked):
                return instrument.note_copy(source)
        counts.ops += 1
        counts.views += function.is_view
        instrument.names.append(str(function))
        cause = READING.get(function) or _mask(function, args)
        if cause:
            instrument.note_read(cause)


def _mask(function, args):
    """'mask' where indexing has to find out how many entries a mask has, else None.

    With a single number to be put, no place is sought: the mask is filled.
    """
    if function not in INDEXING:
        return None
    masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
    fills = function is not aten.index.Tensor and args[2].numel() == 1
    return "mask" if masks and not fills else None

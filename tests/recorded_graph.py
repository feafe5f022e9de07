"""A stand-in for CUDA graphs: remembers the operations of a capture, and does them again when replayed.

    with recorded_graphs():
        graphs.Step(body, captured=True, what="")

What makes a true graph wrong makes this one wrong: a number of the host that changes from step to step stays
what it was, and a tensor that is somewhere else by then is not seen. Reads of the device are refused. Nothing
that was there before a capture is changed by it.
"""

import contextlib
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
UNDECLARED = {aten.native_batch_norm.default}  # changes running statistics, which its signature hides
POOL = "the pool of a step"
READING = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default}


class Graph:
    """What torch.cuda.CUDAGraph is for a GPU. calls: (operation, arguments, results) in their order."""

    count = 0  # of captures

    def __init__(self):
        self.calls, self.replays = [], 0

    def replay(self):
        self.replays += 1
        with torch.no_grad():
            for function, args, kwargs, results in self.calls:
                again = function(*args, **kwargs)
                for old, new in zip(_tensors(results), _tensors(again), strict=True):
                    if old is not new and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def _tensors(tree):
    return [each for each in tree_flatten(tree)[0] if isinstance(each, torch.Tensor)]


class _Capture(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph, self.made, self.before = graph, set(), {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in READING:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        changing = function._schema.is_mutable or function in UNDECLARED
        if changing:
            for tensor in _tensors((args, kwargs)):
                storage = tensor.untyped_storage()
                place = storage.data_ptr()
                if place not in self.made and place not in self.before:
                    self.before[place] = storage, storage.clone()
        results = function(*args, **kwargs)
        given = {each.untyped_storage().data_ptr() for each in _tensors((args, kwargs))}
        self.made |= {each.untyped_storage().data_ptr() for each in _tensors(results)} - given
        # Detached, since the autograd graph of what was captured is none of a replay's business.
        keep = [tree_map(_detached, each) for each in (args, kwargs, results)]
        self.graph.calls.append((function, *keep))
        return results

    def undo(self):
        """A true capture computes nothing: takes back what was done to tensors from outside."""
        for storage, saved in self.before.values():
            storage.copy_(saved)


def _detached(value):
    return value.detach() if isinstance(value, torch.Tensor) else value


@contextlib.contextmanager
def _capturing(graph, pool):
    assert pool == POOL
    Graph.count += 1
    capture = _Capture(graph)
    try:
        with capture, mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: True):
            yield
    finally:
        capture.undo()


@contextlib.contextmanager
def recorded_graphs():
    """Inside, captures and replays are those of Graph, and streams are none."""
    Graph.count = 0
    with contextlib.ExitStack() as stack:
        for name, value in (
            ("CUDAGraph", Graph),
            ("graph", _capturing),
            ("Stream", mock.MagicMock()),
            ("graph_pool_handle", lambda: POOL),
            ("empty_cache", lambda: None),
            ("current_device", lambda: 0),
            ("is_current_stream_capturing", lambda: False),
            ("current_stream", mock.MagicMock()),
            ("stream", lambda stream: contextlib.nullcontext()),
        ):
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        yield

"""A step of fixed shapes, which a GPU starts as one CUDA graph instead of operation by operation.

To start an operation takes a GPU's host some five microseconds, in which small images are through a layer of
the network already. A graph remembers the operations of a step, with the places in memory that they read and
write, and does all of them again when it is started.
"""

import functools
import sys

import torch

from guard.errors import first_line, out_of_memory
from guard.run.processes import world_size

WARM = 3  # calls that are done operation by operation, in which libraries and optimizers set themselves up


def captures(mode, device):
    """Whether steps are captured: mode 'auto', a GPU, and no other process that a step would wait for."""
    return mode == "auto" and device.type == "cuda" and world_size() == 1


class Step:
    """body(*arguments) -> a list of tensors, captured where `captured` is true, else called as it is.

    What a body may do is what a graph can do again. It reads and changes tensors that stay where they are:
    weights, buffers, an optimizer's state (see `prepare`), and its arguments, tensors on the device. It draws
    nothing at random but by torch's default generator, copies nothing from the host, and reads nothing there.
    Arguments that are no tensors are constants: for other constants, or other shapes, the step is captured
    anew. what: words for the line that tells that it cannot be captured, after which it goes on as it is.
    """

    refused = False  # whether a capture has failed for another reason than memory; none is tried after it

    def __init__(self, body, captured, what):
        self.body, self.captured, self.what = body, captured, what
        self.pool = None  # of memory, which all graphs of a step share: one of them runs at a time
        self.calls, self.graphs = {}, {}  # of each kind of arguments

    def __call__(self, *arguments):
        if not self.captured or Step.refused:
            return self.body(*arguments)
        kind = tuple(_kind(argument) for argument in arguments)
        if kind in self.graphs:
            return self.graphs[kind](*arguments)
        self.calls[kind] = self.calls.get(kind, 0) + 1
        if self.calls[kind] <= WARM:
            return _aside(self.body, arguments)
        if reason := self._capture(kind, arguments):
            told = f"note: {self.what} cannot be captured as a CUDA graph ({reason}); going on without"
            print(told, file=sys.stderr, flush=True)
            self.captured, self.pool = False, None
            self.graphs.clear()
            torch.cuda.empty_cache()
            return self.body(*arguments)
        return self.graphs[kind](*arguments)

    def _capture(self, kind, arguments):
        """None, or why it failed. With the error goes what the body has made until then."""
        try:
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            self.graphs[kind] = _Graph(self.body, arguments, self.pool)
        except RuntimeError as problem:
            if out_of_memory(problem):
                return "no memory"
            Step.refused = True
            return first_line(problem)
        return None


class _Graph:
    """The captured body, with arguments and results in places of its own."""

    def __init__(self, body, arguments, pool):
        self.arguments = [each.clone() if isinstance(each, torch.Tensor) else each for each in arguments]
        self.graph = torch.cuda.CUDAGraph()
        # The outer context restores the stream where the capture cannot be ended. Nothing is computed yet.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(self.graph, pool=pool):
            self.results = body(*self.arguments)

    def __call__(self, *arguments):
        for own, given in zip(self.arguments, arguments, strict=True):
            if isinstance(own, torch.Tensor):
                own.copy_(given)
        self.graph.replay()
        return [result.clone() for result in self.results]


def _kind(argument):
    if isinstance(argument, torch.Tensor):
        return argument.shape, argument.stride(), argument.dtype
    return argument


@functools.cache
def _side_stream(device):
    """One for all: memory and libraries' workspaces belong to a stream. device: its number."""
    return torch.cuda.Stream(device)


def _aside(body, arguments):
    """body(*arguments) on another stream: what is set up in it is then fit for a capture."""
    stream = _side_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = body(*arguments)
    torch.cuda.current_stream().wait_stream(stream)
    return results


def prepare(optimizer, captured, device):
    """Makes an optimizer of torch ready for steps on `device`, wherever its state has come from.

    A captured step reads learning rate and number of steps on the device.
    """
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, None
        if "capturable" in group:  # SGD has no such thing, since it counts no steps
            group["capturable"] = captured
        rate = float(group["lr"])
        group["lr"] = torch.tensor(rate, device=device) if captured else rate
    for state in (each for each in optimizer.state.values() if "step" in each):
        state["step"] = state["step"].to(device=device, dtype=torch.float32)

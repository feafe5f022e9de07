"""How things are timed: alternating in one run, synchronized, medians of repeats after a warm-up, beside
what the machine can do.
"""

import itertools
import os
import time
import warnings
from dataclasses import dataclass
from statistics import median

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from guard.run import graphs
from guard.run.devices import computing


@dataclass(frozen=True)
class Conditions:
    """Under which something is timed. scale: 'paper' shapes or 'small' ones; precision, channels_last:
    of the networks.
    """

    device: torch.device
    scale: str
    repeats: int
    precision: str = "fp32"
    channels_last: bool = False

    @property
    def of_a_stage(self):
        """What a stage's settings know of them."""
        return {"precision": self.precision, "channels_last": self.channels_last}


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_of(step, device):
    """Bytes of tensors that one call of step() holds at most, beside those that were there before."""
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's complaint that there is no GPU
    _profiled(step)  # what it leaves, such as gradients, the next call frees, and only so is that seen
    return max(itertools.accumulate(_profiled(step), initial=0))


def _profiled(step):
    """The changes of the CPU's memory in a call of step(), in bytes, in their order. That something is freed
    is known where an earlier call of this function saw it made.
    """
    with (
        warnings.catch_warnings(action="ignore"),
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profiler,
    ):
        step()
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    return [change for _, change in changes]


def alternating(steps, repeats, device, memory=False):
    """steps: name -> function without arguments. {name: {'seconds' (median), 'all seconds'}} of
    `repeats` rounds in which each has its turn, after a call of each that does not count; with `memory`
    that call tells 'peak bytes' (see peak_of), which takes its time. On a GPU the calls in which a step is
    set up and captured do not count either.
    """
    found = {
        name: {"all seconds": [], **({"peak bytes": peak_of(step, device)} if memory else {})}
        for name, step in steps.items()
    }
    for step in steps.values():
        for _ in range(graphs.WARM if device.type == "cuda" else 0):
            step()
    for number in range(memory, repeats + 1):
        for name, step in steps.items():
            synchronize(device)
            started = time.perf_counter()
            step()
            synchronize(device)
            if number:
                found[name]["all seconds"].append(time.perf_counter() - started)
    return {name: {"seconds": median(row["all seconds"]), **row} for name, row in found.items()}


class _Counter(TorchDispatchMode):
    """Adds up what torch's table of operations says of each call. (torch's own FlopCounterMode can't
    look into autograd.grad.)
    """

    total = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        if (formula := flop_registry.get(function._overloadpacket)) is not None:
            self.total += formula(*arguments, **(named or {}), out_val=result)
        return result


def operations(step):
    """Floating-point operations of matrix products and convolutions in one call, a multiplication and an
    addition counted as two.
    """
    with _Counter() as counter:
        step()
    return counter.total


def product_rate(device, precision):
    """Operations per second of a large square matrix product in this precision, the median of five."""
    side = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with computing(precision, device):
        one, other = torch.randn(2, side, side, device=device, dtype=dtype)
        seconds = alternating({"product": lambda: one @ other}, 5, device)["product"]["seconds"]
    return 2 * side**3 / seconds

"""How things are timed: alternating in one run, synchronized, medians of repeats after a warm-up, beside what the machine can do."""

import time
from pathlib import Path
from statistics import median

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from guard.device import computing, peak_memory


def synchronize(where):
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def _reset_peak(where):
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    elif (peak := Path("/proc/self/clear_refs")).exists():
        peak.write_text("5")  # Linux: the highest resident size starts anew


def alternating(steps, repeats, where):
    """steps: name -> function without arguments. {name: {'seconds' (median), 'all seconds', 'peak bytes'}} of `repeats` rounds in which each
    has its turn, after one round that does not count."""
    found = {name: {"all seconds": [], "peak bytes": 0} for name in steps}
    for number in range(repeats + 1):
        for name, step in steps.items():
            _reset_peak(where)
            synchronize(where)
            started = time.perf_counter()
            step()
            synchronize(where)
            if number:
                found[name]["all seconds"].append(time.perf_counter() - started)
                found[name]["peak bytes"] = max(found[name]["peak bytes"], peak_memory(where))
    return {name: {"seconds": median(row["all seconds"]), **row} for name, row in found.items()}


class _Counter(TorchDispatchMode):
    """Adds up what torch's table of operations says of each call. (torch's own FlopCounterMode can't look into autograd.grad.)"""

    total = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        if (formula := flop_registry.get(function._overloadpacket)) is not None:
            self.total += formula(*arguments, **(named or {}), out_val=result)
        return result


def operations(step):
    """Floating-point operations of matrix products and convolutions in one call, a multiplication and an addition counted as two."""
    with _Counter() as counter:
        step()
    return counter.total


def product_rate(where, precision):
    """Operations per second of a large square matrix product in this precision, the median of five."""
    side = 8192 if where.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with computing(precision, where):
        one, other = torch.randn(2, side, side, device=where, dtype=dtype)
        seconds = alternating({"product": lambda: one @ other}, 5, where)["product"]["seconds"]
    return 2 * side**3 / seconds

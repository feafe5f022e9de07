"""Which device computes, in which precision, deterministically, and with what memory."""

import contextlib
import ctypes
import datetime
import os
import resource
import signal
import sys

import torch
import torch.distributed
import torch.nn.functional as F

from guard import ending, torchrun
from guard.errors import UserError
from guard.torchrun import local_rank, rank, world_size

MALLOC_TRIM_THRESHOLD, MALLOC_MMAP_MAX = -1, -4  # names of the GNU C library's mallopt


def select(name):
    """The torch.device for `name`.

    name: 'cpu'; ids of GPUs with commas between them, of which each process takes one; or 'auto', GPU 0, 1,
    ... process by process. Without any GPU it is the CPU, with a note on stderr unless the name is 'auto'.
    Raises UserError for an id that this machine's GPUs do not have.
    """
    if name == "cpu" or not torch.cuda.is_available():
        if name not in ("cpu", "auto") and rank() == 0:
            print(f"note: no GPU here, so --device {name} runs on the CPU", file=sys.stderr, flush=True)
        return torch.device("cpu")
    ids = range(world_size()) if name == "auto" else [int(number) for number in name.split(",")]
    here = torchrun.local_world_size()
    if len(set(ids)) < here:  # NCCL gives two processes of a group no GPU together
        raise UserError(
            f"--device {name} is not enough GPUs for {here} processes; give one for each, as in"
            f" {','.join(map(str, range(here)))}"
        )
    number = ids[local_rank() % len(ids)]
    if number >= torch.cuda.device_count():
        raise UserError(
            f"there is no GPU {number}, the machine has {torch.cuda.device_count()}; choose one with --device"
            " (-u in run.sh)"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


@contextlib.contextmanager
def computing(precision, device):
    """Inside, networks compute in this precision on `device`.

    'fp32', or 'auto' where no stage has replaced it: float32. 'tf32': float32 whose products have 10 bits of
    mantissa, on GPUs that have it. 'bf16': autocast to bfloat16; weights, and what is summed up, stay
    float32.
    """
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = precision == "tf32"
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        for switch, value in zip(switches, before):
            switch.allow_tf32 = value


def sent(tensors, device):
    """`tensors` of the CPU on `device`, in their types and shapes: to a GPU goes one copy of all bytes.

    None stays None. There a copy of a few numbers takes as long as one of thousands.
    """
    if device.type == "cpu":
        return tensors
    places = {}  # type -> places of its tensors
    for place, tensor in enumerate(tensors):
        if tensor is not None:
            places.setdefault(tensor.dtype, []).append(place)
    flat = [torch.cat([tensors[place].flatten() for place in alike]) for alike in places.values()]
    # A type of eight bytes can only begin at a multiple of them.
    parts = [F.pad(each.view(torch.uint8), (0, -each.nbytes % 8)) for each in flat]
    there = torch.cat(parts).to(device, non_blocking=True).split([len(part) for part in parts])
    found = {}
    for (dtype, alike), part, each in zip(places.items(), there, flat):
        numbers = part[: each.nbytes].view(dtype).split([tensors[place].numel() for place in alike])
        found |= {place: own.view(tensors[place].shape) for place, own in zip(alike, numbers)}
    return [found.get(place) for place in range(len(tensors))]


def widened(tensor):
    """What a network in bf16 has computed, as float32, for losses and sums; other types as they are."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def keep_freed_memory():
    """Has the C library keep what is freed for what is allocated next.

    By default it hands large blocks back to the system and gets them again as pages that are zeroed at
    first touch, which on a CPU takes longer than many of the operations that asked for them. Where the C
    library knows no such setting nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(MALLOC_MMAP_MAX, 0)
        library.mallopt(MALLOC_TRIM_THRESHOLD, -1)


def take_large_pages():
    """Has torch ask Linux for large pages, of which a CPU remembers where more of the memory lies.

    It reads this once, with its first tensor. A machine that has none goes on with small ones.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def peak_memory(device):
    """Bytes that this process has held at most: in the GPU's allocator, or on the CPU in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_deterministic():
    """Same seed, same device, same bits: no autotuned or order-dependent kernels, no TF32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.set_deterministic_debug_mode("warn")
    # It would find reads of what was never written, for a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def ready(name):
    """The torch.device for `name` (see `select`), with deterministic kernels and memory that is kept."""
    make_deterministic()
    keep_freed_memory()
    take_large_pages()
    device = select(name)
    if device.type == "cuda":
        _attend_plainly()
    return device


def _attend_plainly():
    """Has attention be computed by products alone.

    Where torch only warns of kernels that are not deterministic, as here, the fused ones of GPUs add up in
    any order on their way back.
    """
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_math_sdp(True)


@contextlib.contextmanager
def joined(name):
    """The torch.device for `name`, ready, inside the torchrun group where there is one."""
    torchrun.check()
    device = ready(name)
    if world_size() == 1:
        yield device
        return
    ending.end_with_parent(signal.SIGKILL)  # torchrun's process, which holds the locks
    # A process without work waits as long as the others need, so that the limit is no judgement on the work.
    backend, own = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    torch.distributed.init_process_group(backend, timeout=datetime.timedelta(days=7), device_id=own)
    try:
        yield device
    except BaseException:
        # To leave NCCL's group in order is to wait for the others, who may be waiting for this process.
        end = torch.distributed.distributed_c10d._abort_process_group
        (end if backend == "nccl" else torch.distributed.destroy_process_group)()
        raise
    torch.distributed.destroy_process_group()

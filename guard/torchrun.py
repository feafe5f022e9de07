"""What torchrun says in the environment of each process of a group. Only the standard library."""

import os

from guard.errors import UserError

REMEDY = "unset it, or start by torchrun"


def rank():
    """Number of this process in its torchrun group, 0 alone."""
    return _number("RANK", 0)


def local_rank():
    """Number of this process on its machine."""
    return _number("LOCAL_RANK", 0)


def world_size():
    """Processes in the torchrun group, 1 alone."""
    return _number("WORLD_SIZE", 1)


def local_world_size():
    """Processes of the group on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def is_first():
    """Whether this process is the first of its group, or alone, whatever else the environment says."""
    return (os.environ.get("RANK") or "0") == "0"


def check():
    """Raises UserError where only some of torchrun's variables are there: the machines of a cluster may have
    them set.
    """
    if world_size() == 1 and rank():
        raise UserError(f"RANK is {rank()} in the environment, without WORLD_SIZE; {REMEDY}")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if world_size() > 1 and missing:
        raise UserError(f"WORLD_SIZE is {world_size()} in the environment, without {missing[0]}; {REMEDY}")


def _number(name, alone):
    """A number of the environment; `alone` where there is none. Raises UserError for what is no number."""
    value = os.environ.get(name) or alone
    try:
        return int(value)
    except ValueError:
        raise UserError(f"the environment has {name}={value!r}, which is no number; {REMEDY}") from None

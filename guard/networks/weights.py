"""Weights that others made: a plain state_dict of a known architecture, from a file or from torchvision."""

from pathlib import Path

import torch

from guard import registry
from guard.errors import UserError, first_line
from guard.networks.checkpoint import load_state
from guard.run import processes, tensor_files

MOST_NAMED = 4  # keys that do not fit, in an error's text
PLAIN = "save the weights alone, by torch.save(model.state_dict(), FILE)"
HOLDERS = ("model", "state_dict", "model_state_dict", "net")  # keys under which a file may hold a state_dict
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, Lightning


def load_weights(network, weights, name):
    """Loads a state_dict into `network`, which is the model `name`; all keys and shapes have to fit.

    weights: a file, or the name of torchvision's weights of that model. A file may hold the state_dict under
    one of HOLDERS, and its keys may all begin with one of PREFIXES. Raises UserError that says which keys do
    not fit, and for weights that are not finite.
    """
    if Path(weights).is_file():
        contents = tensor_files.read(weights, PLAIN, what="file of weights")
    else:
        contents = _torchvision_state(weights, name)
    state = _state_dict_in(contents)
    if state is None:
        raise UserError(f"{weights} holds no state_dict; {PLAIN}")
    own = network.state_dict()
    # Of before torch 0.4.1, as torchvision's ResNets are, a file does not count batch norm's mini-batches.
    state = {key: own[key] for key in own if key.endswith(".num_batches_tracked")} | state
    wrong = _misfits(state, own)
    if wrong:
        more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise UserError(
            f"{weights} does not fit the model {name}: {'; '.join(wrong[:MOST_NAMED])}{more}; check --model,"
            " --stem and the classes"
        )
    infinite = [key for key, value in state.items() if not value.to(own[key].dtype).isfinite().all()]
    if infinite:
        raise UserError(f"{weights} holds numbers that are not finite, in {infinite[0]}; train it again")
    try:
        load_state(network, state)
    except RuntimeError as problem:
        raise UserError(
            f"{weights} cannot be copied into the model {name} ({first_line(problem)}); save it again as"
            " plain tensors"
        ) from None


def _state_dict_in(contents):
    """The state_dict that a file's contents are or hold, without what wrappers put before its keys; else
    None.
    """
    state = contents
    for key in HOLDERS:
        if isinstance(state, dict) and _holds_tensors(state.get(key)):
            state = state[key]
    if not isinstance(state, dict):
        return None
    for key, value in state.items():
        if not isinstance(key, str) or not tensor_files.is_plain(value) or value.is_complex():
            return None
    for _ in PREFIXES:  # one may stand before another
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _holds_tensors(value):
    """Whether something is a dict that holds a tensor, or a dict that does: a configuration is none."""
    if not isinstance(value, dict):
        return False
    return any(isinstance(each, torch.Tensor) or _holds_tensors(each) for each in value.values())


def _misfits(state, own):
    """A few words for each key in which `state` does not fit a network's `own` state_dict.

    Missing and unknown ones come in turn, since a prefix shows in the two together.
    """
    missing = [f"missing {key}" for key in own if key not in state]
    unknown = [f"unknown {key}" for key in state if key not in own]
    both = [each for pair in zip(missing, unknown) for each in pair]
    rest = missing[len(unknown) :] + unknown[len(missing) :]
    other_shapes = []
    for key, tensor in own.items():
        if key in state and state[key].shape != tensor.shape:
            other_shapes.append(f"{key} is {tuple(state[key].shape)} instead of {tuple(tensor.shape)}")
    return both + rest + other_shapes


def _torchvision_state(weights, name):
    """The state_dict of torchvision's weights of that name for the model `name`, downloaded where needed.

    Of several processes on a machine the first downloads, and the others wait. Every process must call it.
    """
    from torchvision.models import get_model_weights

    row = registry.MODELS.get(name)
    theirs = row.settings.get("name", name) if row else name  # as vitb is their vit_b_16
    try:
        entry, alone = get_model_weights(theirs)[weights], processes.local_rank() == 0
        state = entry.get_state_dict(progress=True) if alone else None
        processes.barrier()
        return state if alone else entry.get_state_dict(progress=False)
    except (ValueError, KeyError):
        raise UserError(
            f"there is no file {weights}, and torchvision has no weights of that name for {name}; name a file"
            " or, say, IMAGENET1K_V1"
        ) from None
    except OSError as problem:
        raise UserError(
            f"torchvision's weights {weights} for {name} cannot be downloaded ({first_line(problem)}); give a"
            " file to --weights"
        ) from None

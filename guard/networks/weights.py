"""Weights that others made: a plain state_dict of a known architecture, from a file or from torchvision."""

from pathlib import Path

import torch

from guard.errors import UserError, first_line
from guard.run import tensor_files


def load_weights(network, weights, name):
    """Loads a state_dict into `network`, strictly. weights: a file (also saved from DataParallel, or
    under the keys model, state_dict or net), or the name of torchvision's weights of model `name`.
    Raises UserError that says which keys do not fit.
    """
    if Path(weights).is_file():
        state = tensor_files.read(weights)
    else:
        state = _torchvision_state(weights, name)
    for key in ("model", "state_dict", "net"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise UserError(f"{weights} holds no state_dict; save one with torch.save(model.state_dict(), FILE)")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    own = network.state_dict()
    wrong = [f"missing {key}" for key in own if key not in state] + [
        f"unknown {key}" for key in state if key not in own
    ]
    wrong += [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        raise UserError(
            f"{weights} does not fit the model {name}:"
            f" {'; '.join(wrong[:4])}{f' and {len(wrong) - 4} more' if len(wrong) > 4 else ''}; check"
            " --model, --stem and the classes"
        )
    try:
        network.load_state_dict(state)
    except RuntimeError as problem:
        raise UserError(
            f"{weights} cannot be copied into the model {name} ({first_line(problem)}); save it again as"
            " plain tensors"
        ) from None


def _torchvision_state(weights, name):
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(name)[weights].get_state_dict(progress=True)
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

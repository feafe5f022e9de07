"""Checkpoints of networks.

A checkpoint is a dict of plain values and tensors, so that torch.load(weights_only=True) reads it and
nothing in it can run.
"""

import json
import math
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, fields, replace

from guard.errors import UserError
from guard.networks import models
from guard.registry import MODELS
from guard.run.fingerprints import of_tensors
from guard.run.tensor_files import REMEDY, is_plain, read, saving

FORMAT = "guard-checkpoint-1"


@dataclass
class Checkpoint:
    """A trained network and all that is needed to use it.

    role: 'teacher' or 'student'. model, stem, image_size, mean, std: what models.build takes. classes:
    names in label order. state: the network's state_dict, without the normalization. settings: the
    stage's settings. results: what was measured, such as accuracy.
    """

    role: str
    dataset: str
    model: str
    stem: str
    image_size: int
    mean: list
    std: list
    classes: list
    seed: int
    settings: dict
    state: dict
    results: dict = field(default_factory=dict)
    path = (  # where it was loaded from, for messages; no field, as it is no part of what is saved
        "this checkpoint"
    )

    @property
    def fingerprint(self):
        """Of the network and how it sees images; what was measured or noted beside it does not count."""
        return of_tensors(
            self.state, self.model, self.stem, self.image_size, self.mean, self.std, self.classes
        )

    def fresh(self):
        """A PixelModel of the same kind with new weights, in train mode."""
        return models.build_like(replace(self, stem=self._stem_of_weights()), self.model)

    def _stem_of_weights(self):
        """The stem, but 'standard' where an earlier version gave a ResNet of torchvision's own name that one,
        whatever was asked for.
        """
        first = self.state.get("conv1.weight")
        standard = first is not None and tuple(first.shape[2:]) == (7, 7)
        return "standard" if standard and self.model not in MODELS else self.stem

    def build(self, device="cpu"):
        """The PixelModel in eval mode on `device`. Raises UserError where the weights are not those of
        the model that they claim to be of.
        """
        try:
            model = self.fresh()
            load_state(model.network, self.state)
        except UserError as problem:
            raise UserError(
                f"the network of {self.path} cannot be built: {str(problem).partition(';')[0]}; make it"
                " again, or name another file"
            ) from None
        except RuntimeError:
            raise UserError(
                f"the weights in {self.path} are not those of a {self.model} of {len(self.classes)} classes;"
                " make it again, or name another file"
            ) from None
        return model.to(device).eval()

    def saving(self, path):
        """As `saving` of its contents."""
        return saving({"format": FORMAT, "fingerprint": self.fingerprint, **asdict(self)}, path)

    def save(self, path):
        with self.saving(path):
            pass


def cpu_state(module):
    """A module's state_dict on the CPU, as contiguous tensors of their own."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in module.state_dict().items()
    }


def load_state(network, state):
    """As network.load_state_dict(state), whatever became of the version that a state_dict carries: some of
    torchvision's networks ask for it. Raises RuntimeError for another network's state.
    """
    versioned = OrderedDict(state)
    versioned._metadata = network.state_dict()._metadata
    network.load_state_dict(versioned)


def load(path, role=None):
    """A Checkpoint of ours. Raises UserError for another format or role, a missing field, or contents
    that do not match the fingerprint stored with them.
    """
    contents = read(path)
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a checkpoint of this project; a plain state_dict becomes one by python -m"
            " pretrain --weights FILE"
        )
    missing = [f.name for f in fields(Checkpoint) if f.name not in contents]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; {REMEDY}")
    checkpoint = Checkpoint(**{f.name: contents[f.name] for f in fields(Checkpoint)})
    if impossible := _impossible(checkpoint):
        raise UserError(f"{path} has an impossible {', '.join(impossible)}; {REMEDY}")
    if checkpoint.fingerprint != contents.get("fingerprint"):
        raise UserError(f"{path} is damaged: its weights do not match their fingerprint; {REMEDY}")
    checkpoint.path = path
    if role and checkpoint.role != role:
        raise UserError(f"{path} holds a {checkpoint.role}, not a {role}; name a {role}'s checkpoint")
    return checkpoint


def _impossible(made):
    """Names of the fields whose values no stage writes: a file that somebody made by hand has to be
    refused by name, too.
    """
    fine = {name: type(getattr(made, name)) is str for name in ("role", "dataset", "model", "stem")}
    fine |= {
        "image_size": type(made.image_size) is int and made.image_size > 0,
        "seed": type(made.seed) is int,
    }
    fine |= {"mean": _three_numbers(made.mean), "std": _three_numbers(made.std) and min(made.std) > 0}
    fine["classes"] = (
        isinstance(made.classes, list)
        and len(made.classes) > 0
        and all(type(name) is str for name in made.classes)
        and len(set(made.classes)) == len(made.classes)
    )
    fine["state"] = isinstance(made.state, dict) and all(
        type(name) is str and is_plain(value) for name, value in made.state.items()
    )
    fine |= {name: _is_json(getattr(made, name)) for name in ("settings", "results")}
    return [name for name, good in fine.items() if not good]


def _three_numbers(values):
    return (
        isinstance(values, (list, tuple))
        and len(values) == 3
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )


def _is_json(value):
    """Whether it is a JSON object: plain values under names."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and all(type(name) is str for name in value)

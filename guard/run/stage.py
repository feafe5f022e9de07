"""Going on after a stop."""

import hashlib
import json
import time

from guard.errors import UserError, first_line
from guard.run import processes, storage, tensor_files


class Resume:
    """The state of an unfinished training, beside its checkpoint, at most `seconds` old at an epoch's
    end.

    `key` holds all that decides the result; a state with another key is somebody else's and is refused.
    Randomness needs no saving: it depends on (seed, epoch, batch).
    """

    def __init__(self, path, key, force=False, seconds=60):
        self.path, self.seconds, self.saved = path, seconds, time.monotonic()
        self.began = self.saved
        self.key = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        if force and processes.rank() == 0:
            storage.remove(path)
        processes.barrier()

    def restore(self, model, optimizer):
        """Puts the saved state in place; returns (epochs done, history). Raises UserError for a damaged
        state and for somebody else's.
        """
        if not self.path.exists():
            return 0, []
        remedy = "remove it, or start again with --force (-f in run.sh)"
        state = tensor_files.read(self.path, remedy)
        missing = (
            [
                name
                for name in ("key", "epoch", "model", "optimizer", "history", "elapsed")
                if name not in state
            ]
            if isinstance(state, dict)
            else ["everything"]
        )
        if missing:
            raise UserError(f"{self.path} is no unfinished training, it lacks {', '.join(missing)}; {remedy}")
        if state["key"] != self.key:
            raise UserError(
                f"{self.path} is an unfinished training with other settings; choose another folder, or"
                " --force (-f in run.sh) to start again"
            )
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            self.began -= state["elapsed"]
            if len(state["history"]) != state["epoch"]:
                raise ValueError("its history is not of its epochs")
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as problem:
            raise UserError(
                f"{self.path} is no state of this training ({first_line(problem)}); {remedy}"
            ) from None
        print(f"going on after epoch {state['epoch']} ({self.path})", flush=True)
        return state["epoch"], state["history"]

    def elapsed(self):
        """Seconds of training, those before a stop included."""
        return time.monotonic() - self.began

    def save(self, epoch, model, optimizer, history):
        """Called after each epoch; writes when the last state is older than `seconds`."""
        if processes.rank() == 0 and time.monotonic() - self.saved >= self.seconds:
            state = {
                "key": self.key,
                "epoch": epoch,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": history,
                "elapsed": self.elapsed(),
            }
            tensor_files.save(state, self.path)
            self.saved = time.monotonic()

    def done(self):
        storage.remove(self.path)

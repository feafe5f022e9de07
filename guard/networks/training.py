"""The ledger of a network that is trained: checkpoint.pt once it is finished, resume.pt until then."""

import contextlib
import time

from guard.errors import UserError, first_line
from guard.networks import checkpoint
from guard.run import processes, storage, tensor_files
from guard.run.stage import Begun, Ledger, Stopwatch

REMEDY = "remove it, or start again with --force (-f in run.sh)"
STATE = ("key", "epoch", "model", "optimizer", "history", "elapsed")  # names in resume.pt


class Training(Ledger):
    """path: of the checkpoint. role: 'teacher' or 'student'. interval: seconds between two saved states.

    The state that a stopped training goes on from is that of an epoch's end, at most `interval` seconds old.
    Randomness needs no saving: it depends on (seed, epoch, mini-batch).
    """

    def __init__(self, path, role, interval=60):
        self.path, self.role, self.what, self.interval = path, role, f"a {role}", interval
        self.state_path = path.with_name("resume.pt")
        self.state = None
        self.watch, self.saved = Stopwatch(), time.monotonic()

    def begun(self):
        if self.path.exists():
            return Begun(checkpoint.load(self.path, self.role).settings, True)
        if not self.state_path.exists():
            return None
        self.what = f"an unfinished {self.role}"
        self.state = self._read_state()
        return Begun(self.state["key"], False)

    def begin(self, key):
        storage.remove(self.state_path)

    def seconds(self):
        return self.watch.seconds()

    @contextlib.contextmanager
    def finishing(self, result):
        """result: the Checkpoint of the trained network."""
        with result.saving(self.path):
            yield

    def tidy(self):
        storage.remove(self.state_path)

    def restore(self, model, optimizer):
        """Puts the state of a stopped training in place; (epochs done, history). (0, []) where there is
        none.
        """
        self.watch = Stopwatch()
        if self.state is None:
            return 0, []
        state = self.state
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            self.watch = Stopwatch(before=state["elapsed"])
            if len(state["history"]) != state["epoch"]:
                raise ValueError("its history is not of its epochs")
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as problem:
            reason = f"{self.state_path} is no state of this training ({first_line(problem)})"
            raise UserError(f"{reason}; {REMEDY}") from None
        if processes.rank() == 0:
            print(f"going on after epoch {state['epoch']} ({self.state_path})", flush=True)
        self.state = None
        return state["epoch"], state["history"]

    def save(self, key, epoch, model, optimizer, history):
        """Called after each epoch; writes when the last state is older than `interval`."""
        if processes.rank() == 0 and time.monotonic() - self.saved >= self.interval:
            state = {
                "key": key,
                "epoch": epoch,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": history,
                "elapsed": self.watch.seconds(),
            }
            tensor_files.save(state, self.state_path)
            self.saved = time.monotonic()

    def _read_state(self):
        state = tensor_files.read(self.state_path, REMEDY)
        lacking = [name for name in STATE if not isinstance(state, dict) or name not in state]
        if lacking:
            raise UserError(
                f"{self.state_path} is no unfinished training, it lacks {', '.join(lacking)}; {REMEDY}"
            )
        if not isinstance(state["key"], dict):
            raise UserError(f"{self.state_path} does not say what it is a training of; {REMEDY}")
        return state

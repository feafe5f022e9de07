"""The ledger of a network that is trained: checkpoint.pt once it is finished, resume.pt until then."""

import contextlib
import time

from guard.errors import UserError, first_line
from guard.networks import checkpoint
from guard.run import fingerprints, processes, storage, tensor_files
from guard.run.stage import Found, Ledger, Stopwatch

REMEDY = "remove it, or start again with --force (-f in run.sh)"
STATE = ("key", "epoch", "model", "optimizer", "history", "elapsed")  # names that resume.pt must have


class Training(Ledger):
    """path: of the checkpoint. role: 'teacher' or 'student'. interval: seconds.

    resume.pt holds the state at the end of an epoch. It is written once in `interval` seconds at most, so a
    stopped training does again what it did since: the unfinished epoch, and up to `interval` seconds of
    finished ones. Randomness needs no saving: it depends on (seed, epoch, mini-batch). The checkpoint that a
    forced training replaces stays until the new one is finished; resume.pt has its hash under 'replaces'
    from the beginning on, then of epoch 0 and without a state.
    """

    def __init__(self, path, role, interval=60):
        self.path, self.role, self.what, self.interval = path, role, f"a {role}", interval
        self.state_path = path.with_name("resume.pt")
        self.state, self.replaced = None, None
        self.watch, self.saved = Stopwatch(), time.monotonic()

    def find(self):
        if self.path.exists() and not self._is_being_replaced():
            return Found(checkpoint.load(self.path, self.role).settings, True)
        if not self.state_path.exists():
            return None
        self.what = f"an unfinished {self.role}"
        self.state = self._read_state()
        self.replaced = self.state.get("replaces")
        return Found(self.state["key"], False)

    def _is_being_replaced(self):
        """Whether a forced training was stopped while the checkpoint of the one before was still there."""
        try:
            state = self._read_state() if self.state_path.exists() else {}
        except UserError:  # a leftover of the finished training, which does not need it
            return False
        return state.get("replaces") == fingerprints.of_file(self.path)

    def start_over(self, key):
        self.replaced = fingerprints.of_file(self.path) if self.path.exists() else None
        storage.remove(self.state_path)
        if self.replaced:  # from now on, not only from the first state on
            self._save(key, 0, {}, {}, [])

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
        """Puts the state of a stopped training into model and optimizer, and starts the clock.

        Returns (epochs done, history: a row for each); (0, []) where there is no such state.
        """
        self.watch = Stopwatch()
        if self.state is None or self.state["epoch"] == 0:
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

    def save_if_due(self, key, epoch, model, optimizer, history):
        """Called after each epoch; writes resume.pt if the last state is older than `interval`."""
        if processes.rank() == 0 and time.monotonic() - self.saved >= self.interval:
            self._save(key, epoch, model.state_dict(), optimizer.state_dict(), history)

    def _save(self, key, epoch, model, optimizer, history):
        state = {
            "key": key,
            "epoch": epoch,
            "model": model,
            "optimizer": optimizer,
            "history": history,
            "elapsed": self.watch.seconds(),
            "replaces": self.replaced,
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

"""The state of a part that is being made: a stop in long work costs a minute of it, not all."""

import time

from guard.errors import UserError
from guard.run import tensor_files
from guard.run.stage import Stopwatch

REMEDY = "remove it, or start again with --force (-f in run.sh)"


class Unfinished:
    """Plain values and tensors in FOLDER/.part_NAME.pt, beside the manifest that says what they belong to.

    interval: seconds between two states at least, so a stopped part does again what it did since the last.
    The manifest removes the file when other work begins and when all is finished.
    """

    def __init__(self, folder, name, interval=60):
        self.path, self.interval = folder / f".part_{name}.pt", interval
        self.watch, self.saved = Stopwatch(), time.monotonic()

    def seconds(self):
        """Seconds that the part has taken, those before a stop included."""
        return self.watch.seconds()

    def read(self, names):
        """The state that was saved last, a dict with these names, or None. Raises UserError for a damaged
        file.
        """
        if not self.path.exists():
            return None
        state = tensor_files.read(self.path, REMEDY)
        lacking = [name for name in (*names, "seconds") if not isinstance(state, dict) or name not in state]
        if lacking:
            raise UserError(f"{self.path} is no unfinished part, it lacks {', '.join(lacking)}; {REMEDY}")
        self.watch = Stopwatch(before=state["seconds"])
        return state

    def save_if_due(self, make_state):
        """Saves what make_state() returns, a dict, if the last state is older than `interval`."""
        if time.monotonic() - self.saved >= self.interval:
            tensor_files.save({**make_state(), "seconds": self.seconds()}, self.path)
            self.saved = time.monotonic()

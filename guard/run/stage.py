"""A stage's work: begun, gone on with, finished, refused, forced, locked and recorded.

A stage says what it is called and where its result lies. Once it has read what it needs, it says what decides
the result (its key) and in which parts it is made. Where key and finished parts are written down is the
matter of a ledger: guard.run.manifest for a folder of files, guard.run.entry for an object in a JSON file,
guard.networks.training for a network.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from guard.earlier import comparable
from guard.errors import UserError
from guard.run import devices, lock, processes, records, storage


@dataclass(frozen=True)
class Begun:
    """Work that a ledger knows of. key: what decides its result. complete: whether all of it was there."""

    key: dict
    complete: bool


class Ledger:
    """Where it is written down what has been begun in a place, and which parts of it are finished."""

    what = "a result"  # words for messages
    path = None  # the file that must be writable before the work begins
    replaces = False  # whether work with another key gives way, instead of being refused
    tells = True  # whether a stage says that it found its work finished

    def begun(self):
        """The Begun that is there, or None."""
        raise NotImplementedError

    def begin(self, key):
        """Clears what earlier work left, and notes that work with this key has begun."""
        raise NotImplementedError

    def go_on(self):
        """Notes that the work that is there lacks something again."""

    def missing(self, parts):
        """Those of `parts` that are not finished. Work without parts is done in one piece."""
        del parts
        return []

    def seconds(self):
        """Seconds that the work has taken, those before a stop included. Nothing where nobody counts them."""

    def finishing(self, result):
        """A context: on leaving without an error `result` is in its place, and the work complete."""
        raise NotImplementedError

    def tidy(self):
        """Removes what only unfinished work needs."""


def differences(stage, found, wanted):
    """Names of what differs between two keys. Settings that one of them does not have yet count as before."""
    found, wanted = comparable(stage, found), comparable(stage, wanted)
    return [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]


class Stage:
    """One piece of work in the folder `output`, with an entry of its name in the record `log`.

    log: a log.json [output/log.json]. force: do it again, whatever is there. shared: several runs may want
    this very result, so wait for whoever is making it, instead of ending.
    """

    def __init__(self, name, output, *, log=None, force=False, shared=False):
        self.name, self.output, self.force, self.shared = name, Path(output), force, shared
        self.log = Path(log or self.output / "log.json")
        self.device, self.ledger, self.found, self.missing = None, None, None, []

    @contextlib.contextmanager
    def entered(self, device_name):
        """Keeps other processes out of both folders and joins the group; yields the torch.device."""
        elsewhere = [] if self.log.parent.resolve() == self.output.resolve() else [self.log.parent]
        # Not waiting for the record's folder: its holder may be waiting for the result that is made here.
        alone = lock.held(self.output, wait=self.shared), lock.held(*elsewhere)
        with alone[0], alone[1], devices.joined(device_name) as self.device:
            yield self.device

    def finished(self, ledger, key, parts=()):
        """Whether the work is finished already; says so.

        key: JSON values, all that decides the result. parts: name -> what the ledger needs to know of it.
        Raises UserError for work with another key, unless `force`.
        """
        self.ledger = ledger
        records.read(self.log)  # a damaged one is told before the work
        found = processes.of_the_first(self._found(ledger, key))
        if isinstance(found, UserError):
            raise found
        self.found = found
        self.missing = processes.of_the_first(list(parts) if found is None else ledger.missing(parts))
        if found is None or not found.complete or self.missing:
            return False
        if processes.rank() == 0:
            ledger.tidy()
            if ledger.tells:
                told = "is finished; --force (-f in run.sh) makes it again"
                print(f"{self.name}: {ledger.what} in {self._place()} {told}", flush=True)
        return True

    def begin(self, ledger, key, parts=()):
        """As `finished`; where it is not, all is ready for the parts in `missing` when this returns.

        Raises UserError for places that cannot be written as well.
        """
        if self.finished(ledger, key, parts):
            return True
        if processes.rank() == 0:
            for path in filter(None, (self.log, ledger.path)):
                storage.check_writable(path)
            if self.found is None:
                ledger.begin(key)
            else:
                ledger.go_on()
        processes.barrier()
        return False

    def _found(self, ledger, key):
        """The Begun to go on with, None where there is none, or the UserError to end with."""
        try:
            begun = None if self.force else ledger.begun()
        except UserError as problem:
            return problem
        different = differences(self.name, begun.key, key) if begun else []
        if not different:
            return begun
        if ledger.replaces:
            return None
        return UserError(
            f"{self._place()} holds {ledger.what} made with another {', '.join(different)}; choose another"
            " folder (-x or -y in run.sh), or --force (-f in run.sh) to replace it"
        )

    def _place(self):
        path = self.ledger.path
        return path if path and path.suffix == ".pt" else self.output

    def mine(self):
        """The missing parts that fall to this process of the group."""
        return self.missing[processes.rank() :: processes.world_size()]

    def finish(self, result=None, *, said="", **entry):
        """Puts the result in its place and its entry into the record: both, or neither.

        said: what came out, for the line at the stage's end. entry: what the record says of it, beside its
        seconds and where it was made.
        """
        processes.barrier()
        if processes.rank() == 0:
            seconds = self.ledger.seconds()
            entry |= {} if seconds is None else {"seconds": seconds}
            entry["environment"] = records.environment(self.device)
            with self.ledger.finishing(result):
                records.update(self.log, self.name, entry)
            self.ledger.tidy()
            if said:
                print(f"{self.name}: {said}; {duration(seconds)}, in {self._place()}", flush=True)
        processes.barrier()


def duration(seconds):
    """Seconds as words: '12.3 s', '4 min 05 s', '2 h 07 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


class Stopwatch:
    """Seconds since it was made, and those that were counted before."""

    def __init__(self, before=0.0):
        self.began = time.monotonic() - before

    def seconds(self):
        return time.monotonic() - self.began

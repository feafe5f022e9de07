"""A stage's work: begun, gone on with, finished, refused, forced, locked and recorded.

Four words. The *key* is a dict of settings and fingerprints: if two keys are equal, so are the results. A
*part* is the smallest unit that is not made again after a stop: some images, an epoch of labels, an attack. A
*ledger* remembers on disk which key work was begun with and which parts of it are finished:
guard.run.manifest does so for a folder of files, guard.run.entry for an object in a JSON file,
guard.networks.training for a network. A *record* is the log.json that says what came out.

The order of calls:

    work = Stage("relabel", output)
    with work.entered(device_name):                        # locks, joins the group of processes
        if work.finished_or_begin(ledger, key, parts):     # looks what is there
            return
        for part in work.mine():                           # of the parts that are missing
            ...                                            # make it, and note it in the ledger
        work.finish(result, said="what came out")          # result and record in their places
"""

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from guard.earlier import SETTINGS_IN_KEYS, comparable
from guard.errors import UserError
from guard.run import devices, lock, processes, records, storage


@dataclass(frozen=True)
class Found:
    """Work that was begun earlier. key: what decides its result. complete: whether it was once finished."""

    key: dict
    complete: bool


class Ledger:
    """Where it is written down what has been begun in a place, and which parts of it are finished."""

    what = "a result"  # words for messages
    path = None  # the file that must be writable before the work begins
    replaces = False  # whether work with another key gives way, instead of being refused
    tells = True  # whether a stage says that it found its work finished

    def find(self):
        """The Found of earlier work, or None. Raises UserError where it cannot be read."""
        raise NotImplementedError

    def start_over(self, key):
        """Removes what earlier work left of its progress, before new work with this key.

        It may write the key down. Only the first process calls it.
        """
        raise NotImplementedError

    def reopen(self):
        """Notes that earlier work is not complete, or no longer. Only the first process calls it."""

    def missing(self, parts):
        """Names of those of `parts` that are not finished. Work without parts is done in one piece."""
        del parts
        return []

    def seconds(self):
        """Seconds that the work has taken, those before a stop included; None where nobody counts them."""

    def finishing(self, result):
        """A context: on leaving without an error `result` is in its place, and the work complete."""
        raise NotImplementedError

    def tidy(self):
        """Removes what only unfinished work needs."""


def differences(stage, found, wanted):
    """Names of what differs between two keys, and between the stage's settings in them: 'images_per_class',
    'labels epochs'.

    A setting that one of them lacks, since an earlier version wrote it, counts as what that version did.
    """
    found, wanted = comparable(stage, found), comparable(stage, wanted)
    told = []
    for name in _unequal(found, wanted):
        one, other, whose = found.get(name), wanted.get(name), SETTINGS_IN_KEYS.get(stage, {}).get(name)
        inside = _unequal(one, other) if isinstance(one, dict) and isinstance(other, dict) else []
        # What only one of two image methods reads follows from the method, which both have.
        inside = [each for each in inside if each in one and each in other] or inside
        told += [each if whose == stage else f"{name} {each}" for each in inside] or [name]
    return told


def _unequal(one, other):
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


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
        """Locks `output` and the record's folder, and joins torchrun's group; yields the torch.device."""
        elsewhere = [] if self.log.parent.resolve() == self.output.resolve() else [self.log.parent]
        output_lock = lock.held(self.output, wait=self.shared)
        # Not waiting for the record's folder: its holder may be waiting for the result that is made here.
        log_lock = lock.held(*elsewhere)
        with output_lock, log_lock, devices.joined(device_name) as self.device:
            yield self.device

    def earlier_settings(self, ledger, below=""):
        """The settings of work that was begun here earlier, {} where there is none or `force`.

        They are for what a stage is free to choose and must then stay with. below: the name in the key under
        which the settings stand. Every process must call it.
        """
        found = None if self.force else ledger.find()
        key = comparable(self.name, found.key) if found else {}
        settings = key.get(below) if below else key
        return processes.of_the_first(settings if isinstance(settings, dict) else {})

    def look_up(self, ledger, key, parts=()):
        """Looks what is done already. True if all is: then it says so, and removes what was in progress.

        key: JSON values, all that decides the result. parts: names of the parts; for a manifest a dict, name
        -> list of its files. Sets `found` (a Found or None) and `missing` (names of the parts to make). Every
        process must call it. Raises UserError for work with another key, unless `force`.
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
                if self.name not in records.read(self.log):
                    lost = f"note: {self.log} says nothing of it; --force makes both again"
                    print(lost, file=sys.stderr, flush=True)
        return True

    def finished_or_begin(self, ledger, key, parts=()):
        """True if the result is there already, and the caller should return; see `look_up`.

        Else False, and the folder is ready for the parts in `missing`. Every process must call it. Raises
        UserError for places that cannot be written as well.
        """
        if self.look_up(ledger, key, parts):
            return True
        if processes.rank() == 0:
            for path in filter(None, (self.log, ledger.path)):
                storage.check_writable(path)
            if self.found is None:
                self._tell_replaced(ledger, key)
                ledger.start_over(key)
            else:
                ledger.reopen()
        processes.barrier()
        return False

    def _found(self, ledger, key):
        """The Found to go on with, None where there is none, or the UserError to end with."""
        try:
            found = None if self.force else ledger.find()
        except UserError as problem:
            return problem
        different = differences(self.name, found.key, key) if found else []
        if not different:
            return found
        if ledger.replaces:
            return None
        return UserError(
            f"{self._place()} holds {ledger.what} made with other {', '.join(different)}; choose another"
            " folder (-x or -y in run.sh), or --force (-f in run.sh) to replace it"
        )

    def _tell_replaced(self, ledger, key):
        """A note where a finished result of other settings gives way without being asked."""
        earlier = ledger.find() if ledger.replaces and not self.force else None
        if earlier and earlier.complete:
            different = ", ".join(differences(self.name, earlier.key, key))
            told = f"note: {self.name}: in {ledger.path} this comes in place of one with other {different}"
            print(told, file=sys.stderr, flush=True)

    def _place(self):
        path = self.ledger.path
        return path if path and path.suffix == ".pt" else self.output

    def mine(self):
        """The missing parts that fall to this process of the group."""
        return self.missing[processes.rank() :: processes.world_size()]

    def finish(self, result=None, *, said="", **entry):
        """Puts the result in its place and its entry into the record: after an error neither is there.

        A kill between the two leaves an entry without a result, which the next run writes again. said: what
        came out, for the line at the stage's end, of a ledger that counts seconds. entry: what the record
        says of it, beside its seconds and where it was made.
        """
        processes.barrier()
        if processes.rank() == 0:
            seconds = self.ledger.seconds()
            if seconds is not None and self.found and self.found.complete:  # only lost parts were made again
                seconds += records.read(self.log).get(self.name, {}).get("seconds", 0.0)
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

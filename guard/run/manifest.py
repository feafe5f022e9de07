"""The ledger of a folder of files: manifest.json says what they are made of, and what each of them hashes to.

A part is one or several files. When it is finished a note, .part_NAME.json, says how its files came out and
what the record needs to know of it. At the end the notes become part of the manifest. A long part may keep
its state beside them (guard.run.unfinished).
"""

import contextlib
import json
from pathlib import Path

from guard.errors import UserError
from guard.run import fingerprints, storage
from guard.run.stage import Found, Ledger

FILE = "manifest.json"


class Manifest(Ledger):
    """folder: that of the files. form: value of the manifest's 'format'. what: words for its files. stage:
    name of the stage that makes them, for messages. kept: names of values of the parts, such as 'losses',
    that are copied from their notes into the manifest at the end.

    A key must not use the names format, complete, files, or one of `kept`.
    """

    def __init__(self, folder, *, form, what, stage, kept=()):
        self.folder, self.path = Path(folder), Path(folder) / FILE
        self.form, self.what, self.stage, self.kept = form, what, stage, kept

    def read(self):
        """The manifest. Raises UserError for one that is missing, damaged or of something else."""
        try:
            contents = storage.read_sealed(self.path, f"manifest of {self.what}", storage.FORCE)
        except UserError:
            self._refuse_anothers()  # before one is called damaged that is somebody's
            raise
        self._check_form(contents)
        return contents

    def read_complete(self):
        """The manifest, once all files are there. Raises UserError where they are not."""
        contents = self.read()
        if not contents.get("complete"):
            raise UserError(
                f"the {self.what} in {self.folder} are not complete; run python -m {self.stage} again to"
                " finish them"
            )
        return contents

    def _refuse_anothers(self):
        """Raises UserError for a manifest that can be read and is not of this form: what lies beside it is
        somebody's, whatever `force` says.
        """
        try:
            contents = json.loads(self.path.read_text())
        except (OSError, ValueError, RecursionError):
            return  # none, or a damaged one, which may be ours
        self._check_form(contents)

    def _check_form(self, contents):
        if not isinstance(contents, dict) or contents.get("format") != self.form:
            raise UserError(
                f"{self.path} is no manifest of {self.what} of this project; choose another folder, or move"
                " it away"
            )

    # ---- as a ledger -----------------------------------------------------------------------------

    def find(self):
        if not self.path.exists():
            return None
        contents = self.read()
        own = ("format", "complete", "files", *self.kept)
        key = {name: value for name, value in contents.items() if name not in own}
        return Found(key, bool(contents.get("complete")))

    def start_over(self, key):
        self._refuse_anothers()
        if not self.path.exists() and (strays := self.strays()):
            raise UserError(
                f"{self.folder} already holds files that no manifest speaks of, such as {strays[0]}; remove"
                " them, or choose another --output"
            )
        with storage.sealing({"format": self.form, **key, "complete": False}, self.path):
            self.tidy()
            self.clear()

    def reopen(self):
        contents = self.read()
        if contents.get("complete"):
            storage.write_sealed({**contents, "complete": False}, self.path)

    def missing(self, parts):
        listed = self._listed(self.read())
        return [name for name, files in parts.items() if not self._has(name, files, listed)]

    def seconds(self):
        return sum(note["seconds"] for note in self._notes().values())

    @contextlib.contextmanager
    def finishing(self, result):
        """result: name of a part -> its files, for all parts. Raises UserError for a file that has
        changed since it was made.
        """
        contents, notes = self.read(), self._notes()
        as_made = self._listed(contents)
        for note in notes.values():
            as_made |= note["files"]
        paths = sorted(path for files in result.values() for path in files)
        files = {self._name(path): fingerprints.of_file(path) for path in paths}
        if changed := [name for name in files if as_made.get(name) != files[name]]:
            raise UserError(
                f"{self.folder / changed[0]} is not as it was made; remove it and run python -m {self.stage}"
                " again"
            )
        kept_values = {name: held for name in self.kept if (held := self.kept_values(name, result))}
        with storage.sealing({**contents, "complete": True, "files": files, **kept_values}, self.path):
            yield

    def tidy(self):
        for path in [*self.folder.glob(".part_*.json"), *self.folder.glob(".part_*.pt")]:
            path.unlink()

    # ---- parts -----------------------------------------------------------------------------------

    def note(self, part, files, *, seconds, **kept):
        """Notes that a part is finished: its files, the seconds that it took, and what is kept of it."""
        made = {self._name(path): fingerprints.of_file(path) for path in files}
        storage.write_sealed({**kept, "files": made, "seconds": seconds}, self._note(part))

    def kept_values(self, name, parts):
        """part -> the value called `name`, from its note if there is one, else from the manifest."""
        contents, notes = self.read(), self._notes()
        earlier = contents.get(name) or {}
        held = {part: notes[part].get(name) if part in notes else earlier.get(part) for part in parts}
        return {part: value for part, value in held.items() if value}

    def strays(self):
        """Files in the folder that no manifest of ours speaks of."""
        return []

    def clear(self):
        """Removes the files of earlier work."""

    def _note(self, part):
        return self.folder / f".part_{part}.json"

    def _notes(self):
        paths = {path.stem.removeprefix(".part_"): path for path in self.folder.glob(".part_*.json")}
        return {part: storage.read_sealed(path, "note of a part") for part, path in paths.items()}

    def _name(self, path):
        return str(Path(path).relative_to(self.folder))

    def _listed(self, contents):
        listed = contents.get("files")
        return dict(listed) if isinstance(listed, dict) else {}

    def _has(self, part, files, listed):
        """Whether a part is finished: its files are there, and a note or the manifest speaks of them.

        The note of a part is written after its files; the manifest of a folder that was complete once lists
        them.
        """
        noted = self._note(part).exists() or all(self._name(path) in listed for path in files)
        return noted and all(Path(path).exists() for path in files)

"""The ledger of an object in a JSON file that grows part by part: an evaluation in the record, a curve."""

import contextlib

from guard.run.stage import Begun, Ledger


class Entry(Ledger):
    """read() -> the object, empty where there is none yet; write(object). under: the name below which it
    holds its finished parts. complete(object): whether all of it is there. path: of the file.
    """

    replaces, tells = True, False

    def __init__(self, path, *, read, write, under, complete):
        self.path, self.read, self.write, self.under, self.complete = path, read, write, under, complete
        self.key, self.contents = None, {}

    def begun(self):
        self.contents = self.read()
        if "key" not in self.contents:
            return None
        return Begun(self.contents["key"], self.complete(self.contents))

    def begin(self, key):
        self.key, self.contents = key, {}

    def go_on(self):
        self.key = self.contents["key"]

    @property
    def parts(self):
        """name -> what is known of each finished part."""
        return self.contents.get(self.under, {})

    def missing(self, parts):
        return [name for name in parts if name not in self.parts]

    def save(self, parts):
        """Writes the finished parts down. Called after each of them."""
        self.write({"key": self.key, self.under: parts, "complete": False})

    @contextlib.contextmanager
    def finishing(self, result):
        """The object is an entry of the record, which the stage writes."""
        del result
        yield

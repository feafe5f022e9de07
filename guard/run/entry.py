"""The ledger of an object in a JSON file that grows part by part: an evaluation in the record, a curve."""

import contextlib

from guard.run.stage import Found, Ledger


class Entry(Ledger):
    """Keeps progress in one JSON object: {"key": ..., UNDER: {part: its result}, "complete": whether}.

    path: the file it is in. read(): the object, {} where there is none yet. write(object): saves it. under:
    the name below which the finished parts are, such as 'attacks'. complete(object): whether it is final.
    """

    replaces = True  # with other settings it starts over, instead of refusing
    tells = False  # what was found is printed by the caller

    def __init__(self, path, *, read, write, under, complete):
        self.path, self.read, self.write, self.under, self.complete = path, read, write, under, complete
        self.key, self.contents = None, {}

    def find(self):
        self.contents = self.read()
        if "key" not in self.contents:
            return None
        return Found(self.contents["key"], self.complete(self.contents))

    def start_over(self, key):
        self.key, self.contents = key, {}

    def reopen(self):
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

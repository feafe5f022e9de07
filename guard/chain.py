"""run.sh's check of its four commands before any work, in one process: to start python takes longer than to
check.
"""

import importlib
import sys


def split(words):
    """The commands in [how many words, its words..., how many words, its words...], a list of words each."""
    commands = []
    while words:
        count = int(words[0])
        commands.append(words[1 : 1 + count])
        words = words[1 + count :]
    return commands


def main(argv):
    """Each stage's own --check, then whether relabel's labels serve the student. argv: see split; the first
    word of a command is its stage. Ends with one line and status 2 where something is wrong.
    """
    flags = {stage: words for stage, *words in split(argv)}
    for stage, words in flags.items():
        importlib.import_module(f"{stage}.__main__").main([*words, "--check"])
    importlib.import_module("train.needs").check(flags["relabel"], flags["train"])


if __name__ == "__main__":
    main(sys.argv[1:])

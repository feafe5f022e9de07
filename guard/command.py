"""The console command `guard`, which pip installs: `guard pretrain ...` is `python -m pretrain ...`."""

import importlib
import sys

COMMANDS = {
    "pretrain": ("pretrain.__main__", "train a teacher"),
    "recover": ("recover.__main__", "make distilled images"),
    "relabel": ("relabel.__main__", "make their soft labels"),
    "train": ("train.__main__", "train a student on them, attack it, and report"),
    "judge": ("train.judge", "judge others' distilled sets"),
    "evaluate": ("train.evaluate", "attack any network"),
    "report": ("guard.report.__main__", "write an experiment's report again"),
    "export": ("guard.export", "turn an experiment into one file to share"),
    "prepare": ("data.prepare", "lay out a data set"),
    "bench": ("guard.bench.__main__", "measure speed"),
}


def main(argv=None):
    """Runs the command that the first word names; ends with status 2 where there is none of that name."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("--help", "-h"):
        print("usage: guard COMMAND [flags]; each command has its own --help\n")
        for name, (_, text) in COMMANDS.items():
            print(f"  {name:10} {text}")
        return
    if words[0] not in COMMANDS:
        print(f"error: there is no command '{words[0]}'; see guard --help", file=sys.stderr)
        sys.exit(2)
    module, _ = COMMANDS[words[0]]
    importlib.import_module(module).main(words[1:])

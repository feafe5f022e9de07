"""What a person looks at."""

import sys
from pathlib import Path

from guard import cli, ending
from guard.errors import UserError
from guard.report.experiment import write


def main(argv):
    parser = cli.Parser(
        prog="python -m guard.report",
        description=(
            "Writes the tables and figures of results/, or an experiment's report, again from their records."
        ),
    )
    parser.add_argument(
        "folder",
        nargs="?",
        help=(
            "folder of an experiment, such as runs/24; without it results/TABLES.md and results/figures are"
            " written"
        ),
    )
    options = parser.parse_args(argv)

    def work():
        if options.folder is None:
            from guard.paper import tables

            print(tables.write(Path(__file__).resolve().parents[2] / "results"))
            return
        log = Path(options.folder) / "log.json"
        if not log.exists():
            raise UserError(f"no record at {log}; name the folder of an experiment")
        print(write(log, Path(options.folder) / "images"))

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

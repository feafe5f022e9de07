"""What a person looks at."""

import shlex
import sys
from pathlib import Path

from guard import cli, ending
from guard.errors import UserError


def main(argv):
    parser = cli.Parser(
        prog="python -m guard.report",
        description=(
            "Writes the tables and figures of results/, or an experiment's report, again from their records;"
            " compares several experiments; or writes one page to look at."
        ),
    )
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help=(
            "folder of an experiment, such as runs/24; several are compared in one table, where those that"
            " differ in their seed alone are one row; without any results/TABLES.md and results/figures are"
            " written"
        ),
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help=(
            "write TABLES.md and figures into this folder instead, of the records that `bash"
            " results/reproduce.sh TABLE --results DIR` keeps in it"
        ),
    )
    parser.add_argument(
        "--html",
        action="store_true",
        help="write one page for a browser instead, that needs no other file: report.html in the folder",
    )
    options = parser.parse_args(argv)
    if options.html and len(options.folders) > 1:
        parser.error("--html writes the page of one experiment; name one folder")
    if options.folders and options.results:
        parser.error("--results is for tables of recorded runs; name no folder of an experiment beside it")

    def work():
        if not options.folders:
            _write_results(options.results, options.html)
            return
        if len(options.folders) > 1:
            from guard.paper import comparison

            print(comparison.compare(options.folders))
            return
        folder = Path(options.folders[0])
        log = folder / "log.json"
        if not log.exists():
            raise UserError(f"no record at {log}; name the folder of an experiment")
        if options.html:
            from guard.report import html

            print(f"page: {html.write_experiment(folder)}")
            return
        from guard.report import experiment

        print(experiment.write(log, experiment.images_of(folder)))

    ending.run(work)


def _write_results(results, html_page):
    """Writes the page of the folder `results` (None is results/), or its tables and figures. Raises
    UserError where nothing is recorded in it.
    """
    from guard.paper import judged, published, records, tables
    from guard.report import html

    results = results or published.OWN
    if not (records.read(results) or judged.read(results) or (results / "overhead.json").exists()):
        raise UserError(
            f"no run is recorded in {results}; do some: bash results/reproduce.sh TABLE --results"
            f" {shlex.quote(str(results))}"
        )
    print(f"page: {html.write_results(results)}" if html_page else tables.write(results))


if __name__ == "__main__":
    main(sys.argv[1:])

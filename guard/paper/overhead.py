"""The cost of a step: the published numbers beside those of results/overhead.json."""

from pathlib import Path

from guard.errors import UserError
from guard.paper import not_run
from guard.paper.markdown import MISSING, heading, table
from guard.run import storage

COLUMNS = ["", "case", "step", "seconds", "peak MiB", "in plain steps"]


def section(numbers, results):
    """Markdown lines. numbers: as of published.read. Raises UserError for a damaged overhead.json."""
    published = numbers["tables"].get("overhead", {})
    rows = [_published(method, cost) for method, cost in published.items() if isinstance(cost, dict)]
    path = Path(results) / "overhead.json"
    if not path.exists():
        note = f"Not run yet: `bash results/reproduce.sh overhead{not_run.elsewhere(results)}`."
    else:
        held = storage.read_json(path, "record of the overhead")
        try:
            rows += [_ours(row) for row in held["rows"]]
            environment = held.get("environment", {}).items()
            note = f"Ours on: {', '.join(f'{name} {value}' for name, value in environment)}."
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise UserError(
                f"{path} is no record of the overhead ({problem!r}); remove it and make it again"
            ) from None
    title = heading(2, f"Overhead: {published.get('title', 'cost of a step')}")
    return [title, *table(COLUMNS, rows, left=3), "", f"{note}\n"]


def _published(method, cost):
    seconds = f"{cost['seconds']:.4g} ± {cost['seconds_std']:.2g}"
    return ["published", method, "distillation, iteration", seconds, f"{cost['peak_mib']:.0f}", MISSING]


def _ours(row):
    seconds = f"{row['seconds']:.4g} ± {row['seconds_std']:.2g}"
    peak = f"{row['peak bytes'] / 2**20:.0f}" if row.get("peak bytes") else MISSING
    plain_steps = f"{row['plain steps']:.2f}" if row.get("plain steps") else MISSING
    return ["ours", row["case"], row["step"], seconds, peak, plain_steps]

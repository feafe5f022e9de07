"""`python -m guard.bench doctor`: is a device right, and what is fast on it.

First the checks of guard.bench.health; then seconds of each stage's step in each way to compute it; then the
way that each stage had best take here, and about how long the published command takes so.
"""

import shlex
from pathlib import Path
from statistics import median

import torch

import guard
from guard.bench import estimate, exactness, health, measure, precisions, units
from guard.errors import UserError, first_line

# Stages, and the step of each that its way is chosen by. The teacher of the published command has curvature.
DECIDES = {"pretrain": "gradient-norm", "recover": "recovery", "relabel": "labels", "train": "student"}
STEPS = ("plain", "gradient-norm", "recovery", "labels", "student")
CAPTURED = ("recovery", "labels", "student")
# (data set, network, size, images per step)
CASES = {
    "cuda": (
        ("cifar10", "convnet", 32, 128),
        ("cifar10", "resnet18", 32, 128),
        ("imagenette", "resnet18", 224, 50),
    ),
    "cpu": (("cifar10", "convnet", 32, 50), ("cifar10", "resnet18", 32, 50)),
}
PUBLISHED = "bash run.sh -x 1 -y 1 -d imagenette -u 0 -b 10.0 -p -C -h 3.0 -l 100"
RUN_SH = Path(guard.__file__).resolve().parents[1] / "run.sh"


def checks(device):
    """Yields the rows of all checks; one that ends in an error is one that has failed."""
    for check in health.CHECKS:
        try:
            yield from check(device)
        except Exception as problem:  # noqa: BLE001 - whatever a device does wrong is what is looked for
            told = f"{type(problem).__name__}: {first_line(problem)}"
            yield health.row(check.__name__, told, "no error", False)


# ---- speed ---------------------------------------------------------------------------------------


def ways_of(step, device):
    """name -> settings of a stage, in all the ways that this step can be computed in on the device."""
    ways = precisions.ways(exactness.precisions_of(device))
    if device.type == "cuda":
        if step in CAPTURED:
            ways |= {f"{name}, no graphs": {**way, "graphs": "off"} for name, way in dict(ways).items()}
        if step in exactness.COMPILED:
            ways["bf16, channels-last, compiled"] = {**ways["bf16, channels-last"], "compile": True}
    return ways


def speeds(device, repeats):
    """Yields a row for each case, step and way, in the order in which they are timed."""
    rates = {name: measure.product_rate(device, name) for name in exactness.precisions_of(device)}
    iterations = units.iterations(device)
    for case in CASES[device.type]:
        _, model, size, batch = case
        for step in STEPS:
            times = iterations if step == "recovery" else 1
            operations, work = None, None
            for name, way in ways_of(step, device).items():
                row = {"case": f"{model} at {size}", "step": step, "way": name, **way}
                work = None  # before the next: its network, and the memory of its graphs
                _free(device)
                try:
                    operations = operations or _operations(step, case, device)
                    work = precisions.step_of(step, *case, way, device, times)
                    seconds = _seconds(work, repeats, device) / times
                except RuntimeError as problem:  # no memory, no compiler
                    yield {**row, "images per second": None, "problem": first_line(problem)}
                    continue
                count = precisions.images_of(step, batch)
                share = operations / seconds / rates[way["precision"]]
                yield {
                    **row,
                    "seconds": seconds,
                    "images per second": count / seconds,
                    "share of product rate": share,
                }


def _operations(step, case, device):
    """Of products and convolutions, in a step that is not captured."""
    alone = {"precision": "fp32", "channels_last": False, "graphs": "off"}
    return measure.operations(precisions.step_of(step, *case, alone, device))


def _free(device):
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _seconds(work, repeats, device):
    return measure.alternating({"work": work}, repeats, device)["work"]["seconds"]


# ---- choice --------------------------------------------------------------------------------------


def chosen(health_rows, speed_rows):
    """{stage: settings of the fastest way that is exact enough on every network}.

    Fastest over the cases together: by the median of its seconds over those of the fastest way of each case.
    """
    checked = {}  # (step, precision, whether compiled) -> whether it has passed, each term on each network
    for row in health_rows:
        if "step" in row:
            checked.setdefault(_arithmetic(row), []).append(row["passed"])
    exact = {kind for kind, passed in checked.items() if all(passed)}
    found = {}
    for stage, step in DECIDES.items():
        timed = [row for row in speed_rows if row["step"] == step and row["images per second"]]
        timed = [row for row in timed if _arithmetic(row) in exact]
        fastest = {}  # seconds, of each case
        for row in timed:
            fastest[row["case"]] = min(row["seconds"], fastest.get(row["case"], row["seconds"]))
        slower = {}  # way -> how many times as slow as the fastest, in each case
        for row in timed:
            slower.setdefault(row["way"], []).append(row["seconds"] / fastest[row["case"]])
        complete = {way: each for way, each in slower.items() if len(each) == len(fastest)}
        if complete:
            best = min(complete, key=lambda way: median(complete[way]))
            (first, *_) = (row for row in timed if row["way"] == best)
            names = ("precision", "channels_last", "graphs", "compile")
            found[stage] = {name: first[name] for name in names if name in first}
    return found


def _arithmetic(row):
    """What decides how exact a way is."""
    return row["step"], row["precision"], row.get("compile", False)


def flags_of(choice):
    """Words after `--` of run.sh for what was chosen."""
    words = []
    for stage, way in choice.items():
        words += [stage, "--precision", way["precision"]]
        words += ["--channels-last"] if way["channels_last"] else []
        words += ["--compile"] if way.get("compile") else []
        if stage != "pretrain" and way.get("graphs") == "off":
            words += ["--graphs", "off"]
    return words


def published_minutes(choice, device):
    """About how many minutes the published command takes here, in the ways that were chosen; None where
    this cannot be told: where there is no run.sh, as beside an installed package, or no memory for it.
    """
    if not RUN_SH.exists():
        return None
    bash, _, *words = shlex.split(PUBLISHED)
    where = ["-u", "cpu" if device.type == "cpu" else str(device.index)]
    words = [bash, str(RUN_SH), *words, *where, "--", *flags_of(choice)]
    try:
        return estimate.seconds_of(words, set(), estimate.SIZES["imagenette"]) / 60
    except (OSError, RuntimeError, UserError):
        return None


def failed(rows):
    """Those that say that the device is not right."""
    return [row for row in rows if verdict(row) == "FAILED"]


def verdict(row):
    """A check's row in a word: a coarse arithmetic is not wrong, but it is not chosen."""
    if row["passed"] is None:
        return "not here"
    if row["passed"]:
        return "passed"
    return "FAILED" if row.get("precision", "fp32") == "fp32" else "too coarse"

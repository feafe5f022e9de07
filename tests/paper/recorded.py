"""Records of runs for the tests: with only what tables are made from."""

import shutil

from conftest import ROOT

from guard.paper import arms, commands, groups, plan, records, tables

RESULTS = ROOT / "results"


def run(
    attacks, *, seed=0, epochs=4, epsilon=1 / 255, protocols=("paper",), worst_case=None, first=0, change=1.0
):
    """A trimmed log.json."""
    environment = {"device": "a machine", "torch": "2.11.0", "commit": "0123456789ab-dirty"}
    evaluated = {name: {"accuracy": accuracy} for name, accuracy in attacks.items()}
    stages = {
        "pretrain": {
            "settings": {
                "model": "convnet-7",
                "image_size": 32,
                "epochs": epochs,
                "batch_size": 64,
                "learning_rate": 0.1,
                "images": 300,
                "seed": seed,
                "data": "feedbeef" * 8,
            },
            "results": {"curvature": {"gradient_change": change, "along_z": 2.0, "largest_eigenvalue": 3.0}},
        },
        "recover": {
            "settings": {"iterations": 250, "r_bn": 1.0, "step_size": 0.25, "images_per_class": 10},
            "images": 100,
            "seed": seed,
            "teacher": "t",
        },
        "relabel": {"settings": {"epochs": 200, "seed": seed}, "teacher": "t"},
        "train": {
            "settings": {
                "model": "convnet-7",
                "temperature": 30.0,
                "seed": seed,
                "images": f"i{seed}",
                "teacher": f"t{seed}",
                "labels": {"epochs": 200, "seed": seed},
            }
        },
        "evaluate teacher": {
            "images": 100,
            "attacks": {"clean": {"accuracy": 80.0}, "pgd100": {"accuracy": 50.0}},
        },
        "evaluate student": {
            "complete": True,
            "protocols": list(protocols),
            "epsilon": epsilon,
            "images": 100,
            "attacks": evaluated,
            "worst_case": worst_case,
            "key": {"images per class": first},
        },
    }
    return {name: {**entry, "environment": environment} for name, entry in stages.items()}


def contents(record, *, scale, dataset, size, arm, seed, images=None, labels=None, curve=None):
    """The JSON object of a run, by the plan's command where the plan has it."""
    made = plan.PlannedRun(dataset, size, images or arm, labels or arm, seed)
    words = ["bash", "run.sh"]
    if dataset in plan.SCALES[scale] and {made.images_from, made.labels_from} <= set(arms.ARMS):
        words = commands.command_of(made, scale, root="data", output="runs")
    return records.contents_of(made, scale, commands.shown(words), record, curve)


def add(
    results,
    record,
    *,
    scale="cpu",
    dataset="cifar10",
    size=10,
    arm="guard",
    seed=0,
    images=None,
    labels=None,
    curve=None,
    table="main",
):
    """Records a run; returns the file."""
    of_run = {"scale": scale, "dataset": dataset, "size": size, "arm": arm, "seed": seed}
    records.add(contents(record, **of_run, images=images, labels=labels, curve=curve), results, table)
    return results / scale / f"{table}.jsonl"


def empty(folder):
    """Makes `folder` one of results with the published numbers and no runs; returns it."""
    shutil.copy(RESULTS / "published.json", folder)
    return folder


def gathered(results):
    return groups.gather(records.read(results))


def text_of(results):
    return tables.text(results, gathered(results))


def rows(text, *starts):
    """The cells after the first few of every table row that begins with `starts`."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    return [row[len(starts) :] for row in found if row[: len(starts)] == list(starts)]

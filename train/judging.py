"""The judge: students on the hard labels of distilled sets, their accuracies in one table."""

import functools
import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from guard.attacks import PROTOCOLS, checks, metrics, robustness
from guard.data import find
from guard.distilled import image_folder
from guard.errors import UserError, printable
from guard.networks import models
from guard.paper import judged
from guard.paper.markdown import number, table
from guard.report.statistics import average, standard_error
from guard.run import processes, records, storage
from guard.run.devices import ready
from train import experiment, inputs, judged_sets

RANDOM = "random training images, {} per class"
AS_SET, NONE = "as set", "unaugmented"  # kinds of views


@dataclass(frozen=True)
class Request:
    """What is to be judged, and how.

    paths: of sets, or of folders of several. settings: of the stages train, relabel and evaluate, by name.
    recipe: the name that they go by; unlike_the_recipe: {name: value} of what is not as there. networks:
    names. seeds: of each network's students. random: also as many random training images. unaugmented: each
    student once more, without views and mixing. full: accuracy of students on all training images in percent,
    by network, where it is known. of_images: see train/hard_labels.py. dataset, root: of the real images.
    where: device_name and force, as of a Stage.
    """

    paths: list
    settings: dict
    recipe: str
    unlike_the_recipe: dict
    networks: list
    seeds: range
    random: bool
    unaugmented: bool
    full: dict
    of_images: dict
    dataset: str
    root: str
    output: Path
    where: dict
    workers: int


def judge(request):
    """Trains and attacks all students, writes judge.json and judge.md into the output, returns the latter.

    Students that are there are not trained again. Raises UserError for what cannot be judged, before the
    first student.
    """
    if processes.world_size() > 1:
        raise UserError("the judge is one process; start one on each GPU, with --device, --seed and --output")
    settings = request.settings
    sets = _sets(request)
    robustness.check_names(robustness.names_of(settings["evaluate"]))
    for network in request.networks:
        models.check_name(network)
    by_views = {AS_SET: settings}
    if request.unaugmented:
        relabel = replace(settings["relabel"], augmentation="none", mix="none")
        by_views[NONE] = {**settings, "relabel": relabel, "train": replace(settings["train"], dsa=False)}
        if by_views[NONE] == settings:
            raise UserError(
                f"recipe {request.recipe} has no views to leave out; take another recipe, or leave"
                " --unaugmented out"
            )
    rows = []
    for name, (what, per_class, fingerprint) in sets.items():
        for network, (views, chosen) in itertools.product(request.networks, by_views.items()):
            place = _place(request, name) / views.replace(" ", "-")
            results = [_evaluation(request, what, chosen, network, seed, place) for seed in request.seeds]
            about = {"set": name, "images per class": per_class, "fingerprint": fingerprint}
            about |= {"network": network, "views": views}
            rows.append({**about, **_accuracies(results, robustness.names_of(settings["evaluate"]))})
    for row in rows:
        row |= _scores(row, rows, request.full, hard=not request.of_images["soft_labels"])
    text = _text(rows, request)
    if processes.rank() == 0:
        told = {"dataset": request.dataset, "recipe": request.recipe, "seeds": list(request.seeds)}
        told |= {"unlike the recipe": request.unlike_the_recipe}
        told |= {"rows": rows, "environment": records.environment(ready(request.where["device_name"]))}
        storage.write_sealed(told, request.output / "judge.json")
        with storage.replacing(request.output / "judge.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return text


# ---- sets ----------------------------------------------------------------------------------------


def _sets(request):
    """name -> (path, images per class, fingerprint of the images) of each set; with --random also of random
    training images, with their number in place of a path.

    Each is read, and each network built for it, so that a bad one is told before the work. Raises UserError,
    too, for a set of unequal classes beside which random images would stand, and for one whose students
    would come into its own folder.
    """
    classes, found = find.find(request.dataset, request.root, "val").classes, {}
    for name, path in judged_sets.find([Path(path) for path in request.paths], classes).items():
        if path.is_dir():
            image_folder.check_apart(_place(request, name), path)
        given = _inputs(request, request.settings["relabel"], path, request.seeds[0])
        images = given.distilled
        for network in request.networks:
            models.build_like(given.shape, network)
        counts = torch.bincount(images.labels, minlength=len(images.classes)).tolist()
        if request.random and len({*counts}) > 1:
            raise UserError(
                f"{path} has from {min(counts)} to {max(counts)} images of a class, and random ones as many"
                " of each; leave --random out"
            )
        found[name] = path, max(counts), images.fingerprint
    if request.random:
        for count in sorted({per_class for _, per_class, _ in found.values()}):
            drawn = _inputs(request, request.settings["relabel"], count, request.seeds[0]).distilled
            found[RANDOM.format(count)] = count, count, drawn.fingerprint
    places = {}
    for name in found:
        if (other := places.setdefault(_place(request, name), name)) != name:
            raise UserError(f"students of '{name}' and of '{other}' would share a folder; rename the set")
    return found


def _place(request, name):
    """The folder of a set's students."""
    return request.output / name.replace(", ", "-").replace(" ", "-")


def _inputs(request, label_settings, what, seed):
    return inputs.without_teacher(
        dataset=request.dataset,
        root=request.root,
        distilled=what,
        label_settings=label_settings,
        seed=seed,
        **request.of_images,
    )


# ---- students ------------------------------------------------------------------------------------


def _evaluation(request, what, settings, network, seed, place):
    """The evaluation of one student by `settings`, trained in a folder of its own below `place`."""
    return experiment.run(
        replace(settings["train"], model=network),
        settings["evaluate"],
        functools.partial(_inputs, request, settings["relabel"], what, seed),
        dataset=request.dataset,
        root=request.root,
        where={"output": place / f"{network}-seed{seed}", "log": None, **request.where},
        seed=seed,
        workers=request.workers,
    )


# ---- table ---------------------------------------------------------------------------------------


def _accuracies(results, attacks):
    """What a row says of the evaluations of its seeds: accuracies, each with its uncertainty, and ratios.

    attacks: those that were asked for; an evaluation tells of all that its student ever met.
    """
    first = results[0]
    accuracies = {
        attack: _average([result["attacks"][attack]["accuracy"] for result in results], first["images"])
        for attack in first["attacks"]
        if attack == "clean" or attack in attacks
    }
    found = {"accuracies": accuracies, "epsilon": first["epsilon"], "images": first["images"]}
    found["warnings"] = list(dict.fromkeys(text for result in results for text in checks.said(result)))
    if {*PROTOCOLS["standard"]} <= {*attacks}:
        found["worst case"] = _average([result["worst_case"] for result in results], first["images"])
    clean = accuracies["clean"][0]
    attacked = [mean for attack, (mean, _) in accuracies.items() if attack != "clean"]
    if len(attacked) > 1:  # they compare attacks
        found["RR"] = _defined(metrics.robustness_ratio(clean, attacked))
        found["I-RR"] = _defined(metrics.improved_robustness_ratio(clean, attacked))
    if attacked:
        found["largest drop"] = _defined(100 * max(metrics.drop_rates(clean, attacked)))
    return found


def _scores(row, rows, full, *, hard):
    """DD-Ranking's scores of a row: beside random images as many, and all data, as far as they are known.

    hard: whether the sets have hard labels. Random images have, and unlike labels have no scores.
    """
    clean = {
        (each["set"], each["views"]): each["accuracies"]["clean"][0]
        for each in rows
        if each["network"] == row["network"]
    }
    random = RANDOM.format(row["images per class"])
    if row["set"] == random or not hard:
        return {}
    gains = {
        kind: metrics.improvement_over_random(clean[row["set"], kind], clean[random, kind])
        for kind in (AS_SET, NONE)
        if (random, kind) in clean
    }
    found = {}
    if row["network"] in full:
        found["HLR"] = metrics.hard_label_recovery(full[row["network"]], clean[row["set"], row["views"]])
    if row["views"] in gains:
        found["IOR"] = gains[row["views"]]
    if len(found) == 2:
        found["LRS"] = metrics.label_robust_score(found["HLR"], found["IOR"])
    if row["views"] == AS_SET and len(gains) == 2:
        found["ARS"] = metrics.augmentation_robust_score(gains[AS_SET], gains[NONE])
    return found


def _defined(value):
    return None if math.isnan(value) else value


def _average(values, images):
    """(mean over the seeds, its uncertainty: their standard deviation, of one seed that of the images)."""
    return average(values, standard_error(values[0], images))


OF_ALL = ("RR", "I-RR", "largest drop", "HLR", "IOR", "LRS", "ARS")


def _text(rows, request):
    attacks = list(rows[0]["accuracies"])
    worst = ["worst case"] if "worst case" in rows[0] else []
    scores = [name for name in OF_ALL if any(row.get(name) is not None for row in rows)]
    header = ["set", "network", "views", "images per class", *attacks, *worst, *scores]
    lines = []
    for row in rows:
        words = [printable(row["set"]), row["network"], row["views"], str(row["images per class"])]
        numbers = [number(row["accuracies"][attack]) for attack in attacks]
        numbers += [number(row["worst case"]) for _ in worst]
        lines.append(words + numbers + [_score(row.get(name)) for name in scores])
    several = len(request.seeds) > 1
    spread = "the deviation over the seeds" if several else "the standard error of these images"
    said = (
        f"Students on {'soft' if request.of_images['soft_labels'] else 'hard'} labels of {request.dataset}"
        f"{' (random images on hard ones)' if request.random and request.of_images['soft_labels'] else ''},"
        f" recipe {request.recipe}{judged.but(request.unlike_the_recipe)}; seeds: {len(request.seeds)}."
        f" Accuracy in percent ± {spread}, on {rows[0]['images']} validation images, epsilon"
        f" {rows[0]['epsilon'] * 255:.4g}/255."
    )
    warned = [
        f"{printable(row['set'])}, {row['network']}, {row['views']}, warning: {text}."
        for row in rows
        for text in row["warnings"]
    ]
    return "\n".join([said, "", *table(header, lines, 3), *([""] if warned else []), *warned]) + "\n"


def _score(value):
    return "" if value is None else f"{value:.1f}"

"""Evaluation of networks: clean accuracy, accuracy under attacks, accuracy against epsilon; and the
report.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from guard import recipes
from guard.attacks import robustness
from guard.data import find, images
from guard.errors import UserError
from guard.networks import checkpoint, layout, models
from guard.networks.weights import load_weights
from guard.report import experiment, pictures
from guard.run import evaluations, lock, processes, records, storage
from guard.run.entry import Entry
from guard.run.stage import Stage

CURVE_ATTACK = "pgd100"


@dataclass(frozen=True)
class Judgement:
    """How networks are evaluated: by which attacks, on which images, where.

    settings: settings.Evaluate. dataset, root: of the validation images. force: again, whatever is recorded.
    """

    settings: object
    dataset: str
    root: str
    seed: int
    workers: int
    device: torch.device
    force: bool = False

    def source_for(self, network):
        """The Source of the validation images. Raises UserError for other classes."""
        source = find.find(self.dataset, self.root, "val")
        if list(source.classes) != list(network.classes):
            raise UserError(
                f"the classes of {source.path} are not those of the network; use the data set it was trained"
                f" on, {network.dataset}"
            )
        return source

    def images_for(self, network):
        """(Source, holder on the device) of the validation images. Raises UserError for other classes."""
        source = self.source_for(network)
        held = images.load(source, network.image_size, self.settings.images)
        return source, held.to(self.device)

    def build(self, network):
        """The PixelModel of a Checkpoint, in the layout in which it is quickest in float32."""
        model = network.build(self.device)
        layout.arrange(model.network, channels_last=self.device.type == "cpu")
        return model

    @property
    def attacks(self):
        """Names of the attacks."""
        return robustness.names_of(self.settings)


def check(judgement, teacher_path):
    """Checks before a long training what the evaluation needs after it. Raises UserError for attacks that
    there are not, and for the record of a teacher, where there is one, that cannot be read.
    """
    robustness.check_names(judgement.attacks)
    if teacher_path:
        records.read(Path(teacher_path).parent / "log.json")


def evaluate_network(network, judgement, log, shared=False):
    """Evaluates `network` (Checkpoint); its record is the entry 'evaluate teacher' (or another role) of
    `log`. Returns that entry: attacks (name -> accuracy and more), epsilon, images, worst_case and the rest
    of robustness.evaluate.

    Attacks whose results for this very network, data and settings are there already are not run again, though
    it has been evaluated in another way since.
    shared: whether other experiments may be evaluating it now, as they may a teacher; then the folder is
    locked here, after waiting for them. Else the caller holds the lock. Raises UserError for data with other
    classes, and for unknown attacks.
    """
    settings, name = judgement.settings, f"evaluate {network.role}"
    names = robustness.check_names(judgement.attacks)
    source, held = judgement.images_for(network)
    key = _key(network, judgement, source)
    # Not `entered`: the caller is in the group of processes already.
    work = Stage(name, Path(log).parent, log=log, force=judgement.force)
    work.device = judgement.device
    ledger = Entry(
        Path(log),
        read=lambda: evaluations.current(log, name, key),
        write=lambda contents: evaluations.put(log, name, contents),
        under="attacks",
        complete=lambda contents: bool(contents.get("complete")),
    )
    if work.look_up(ledger, key, names):
        if shared:
            lock.tidy(work.output)
        return processes.of_the_first(ledger.contents)
    with lock.held(*([work.output] if shared else []), wait=True):
        evaluations.turn_to(log, name, key)
        # Once more: it was kept from earlier, or another experiment has finished it meanwhile.
        if work.finished_or_begin(ledger, key, names):
            return processes.of_the_first(ledger.contents)
        result = robustness.evaluate(
            judgement.build(network),
            held,
            size=network.image_size,
            names=names,
            epsilon=settings.epsilon,
            attack_batch=settings.attack_batch,
            seed=judgement.seed,
            workers=judgement.workers,
            device=judgement.device,
            finished=processes.of_the_first(ledger.parts),
            save=ledger.save if processes.rank() == 0 else None,
        )
        work.finish(**{"key": key, **result, "complete": True})
        return processes.of_the_first(records.read(log).get(name, {}))


def _key(network, judgement, source):
    """What decides an evaluation, the attacks aside. source: of the validation images."""
    settings = judgement.settings
    return {
        "fingerprint": network.fingerprint,
        "dataset": judgement.dataset,
        "data": source.fingerprint,
        "epsilon": settings.epsilon,
        "images per class": settings.images,
        "seed": judgement.seed,
    }


def curve_of(network, judgement, log):
    """Accuracy under PGD100 against epsilon, a tuple in the settings: curve.json and curve.png beside `log`.

    Returns the curve. An interrupted one goes on after its last epsilon. What `log` tells of this network
    under that attack, on the same images by the same seed, is taken from there.
    """
    settings = judgement.settings
    source, held = judgement.images_for(network)
    path = Path(log).parent / "curve.json"
    epsilons = [str(epsilon) for epsilon in settings.epsilon]
    key = {
        "fingerprint": network.fingerprint,
        "data": source.fingerprint,
        "epsilon": list(settings.epsilon),
        "images per class": settings.images,
        "seed": judgement.seed,
    }
    ledger = Entry(
        path,
        read=lambda: storage.read_sealed(path, "curve") if path.exists() else {},
        write=lambda contents: storage.write_sealed(contents, path),
        under="attacked",
        complete=lambda contents: "accuracy" in contents,
    )
    work = Stage("curve", path.parent, log=log, force=judgement.force)
    work.device = judgement.device
    if work.look_up(ledger, key):  # without parts, which a finished curve does not list
        return processes.of_the_first(ledger.contents)
    work.finished_or_begin(ledger, key, epsilons)
    attacked = {} if judgement.force else _attacked(log, network.role, {**key, "dataset": judgement.dataset})
    found = robustness.curve(
        judgement.build(network),
        held,
        settings.epsilon,
        attack=CURVE_ATTACK,
        size=network.image_size,
        attack_batch=settings.attack_batch,
        seed=judgement.seed,
        workers=judgement.workers,
        device=judgement.device,
        finished=processes.of_the_first({**attacked, **ledger.parts}),
        save=ledger.save if processes.rank() == 0 else None,
    )
    found["images"] = len(held)
    if processes.rank() == 0:
        pictures.epsilon_curve(found, path.parent / "curve.png")  # first: what is finished is not begun again
        of_run = {"network": network.fingerprint, "seed": judgement.seed}
        ledger.write({"key": key, **found, **of_run, "environment": records.environment(judgement.device)})
    processes.barrier()
    return found


def _attacked(log, role, key):
    """{text of epsilon: what was found} of those evaluations of a network of this role in `log`
    that are by the curve's attack at one of the curve's epsilons, where all else is as in `key`.
    """
    known = {}
    for evaluation in evaluations.of(log, f"evaluate {role}"):
        found, its_key = evaluation.get("attacks", {}).get(CURVE_ATTACK), evaluation.get("key", {})
        epsilon = its_key.get("epsilon")
        if found and epsilon in key["epsilon"] and its_key == {**key, "epsilon": epsilon}:
            known[str(epsilon)] = found
    return known


def judge_experiment(work, judgement, *, teacher, teacher_path, student_path, distilled):
    """Evaluates student and teacher, where there is one, completes the experiment's record and writes its
    report; prints that. Returns the student's evaluation.

    distilled: the images, as Packed.
    """
    if processes.rank() == 0:
        evaluations.forget(work.log, _of_other_teachers(records.read(work.log), teacher))
    processes.barrier()
    found = evaluate_network(checkpoint.load(student_path), judgement, work.log)  # what one waits for
    if teacher:
        _evaluate_teacher(teacher, judgement, Path(teacher_path).parent / "log.json", work.log)
    if processes.rank() == 0:
        print(experiment.write(work.log, distilled), flush=True)
    processes.barrier()
    return found


def _of_other_teachers(entries, teacher):
    """Those of a record's entries that an earlier student of that place left, of a teacher that this one has
    not. teacher: Checkpoint, or None.
    """
    if teacher is None:
        return ("pretrain", "relabel", "evaluate teacher")
    found = {
        "pretrain": entries.get("pretrain", {}).get("fingerprint"),
        "relabel": entries.get("relabel", {}).get("teacher"),
        "evaluate teacher": entries.get("evaluate teacher", {}).get("key", {}).get("fingerprint"),
    }
    return [name for name, fingerprint in found.items() if fingerprint != teacher.fingerprint]


def _evaluate_teacher(teacher, judgement, shared, own):
    """Evaluates a teacher into its own record, for all experiments that use it, and copies what that tells of
    it into the experiment's, so that this tells all; into the experiment's alone where the teacher's folder
    cannot be written. Where the experiment's tells all that is asked for it is left so: others may have
    evaluated the teacher in another way since.

    shared, own: the two records. A teacher that came without its record has no 'pretrain'.
    """
    name = "evaluate teacher"
    told = processes.of_the_first(_is_told(teacher, judgement, own)) and not judgement.force
    writable = processes.of_the_first(os.access(shared.parent, os.W_OK))
    found = None
    if writable and not told:
        found = evaluate_network(teacher, judgement, shared, shared=True)
    if processes.rank() == 0:
        if pretrain := records.read(shared).get("pretrain"):
            records.update(own, "pretrain", pretrain)
        if not writable:
            key = _key(teacher, judgement, judgement.source_for(teacher))
            found = None if evaluations.find(own, name, key) else evaluations.find(shared, name, key)
        if found:
            evaluations.put(own, name, found)
    if not writable:
        processes.barrier()
        evaluate_network(teacher, judgement, own)


def _is_told(network, judgement, log):
    """Whether a record has all that a judgement asks of a network."""
    entry = records.read(log).get(f"evaluate {network.role}", {})
    if not entry.get("complete") or not {*judgement.attacks} <= {*entry["attacks"]}:
        return False
    return entry["key"] == _key(network, judgement, judgement.source_for(network))


def checkpoint_of_weights(weights, model, dataset, root, image_size, stem, mean=None, std=None):
    """A Checkpoint, role 'network', of existing weights; what is None comes from the data set's recipe."""
    recipe = recipes.recipe(dataset)
    pretrain = recipes.resolve(dataset, "pretrain", {"image_size": image_size, "stem": stem})
    size, stem = pretrain.image_size, pretrain.stem
    classes = find.find(dataset, root, "val").classes
    shape = {"image_size": size, "stem": stem, "mean": mean or recipe.mean, "std": std or recipe.std}
    made = models.build(model, classes=len(classes), **shape)
    load_weights(made.network, weights, model)
    return checkpoint.Checkpoint(
        role="network",
        dataset=dataset,
        model=model,
        stem=stem,
        image_size=size,
        mean=list(shape["mean"]),
        std=list(shape["std"]),
        classes=list(classes),
        seed=0,
        settings={"weights": weights},
        state=checkpoint.cpu_state(made.network),
    )

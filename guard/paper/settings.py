"""How runs were made, in words, from the settings in their records: networks, sizes, epochs, regularizer,
attacks; and where the settings of two runs differ.
"""

from guard.earlier import TOLD_ALONE, read_by_stage
from guard.paper import groups as gathered
from guard.paper import stored
from guard.paper.markdown import size_text
from guard.paper.published import place
from guard.paper.records import STAGES
from guard.report.statistics import standard_error

# settings that name what a run was made from, not how: they differ between seeds as they must
OF_THE_RUN = {"seed", "train images", "train teacher", "labels seed"}
OF_THE_RUN |= {"train view_target"}  # which follows from the loss
OF_THE_RUN |= {"recover pack_images"}  # how many at a time, by the memory: no choice of anybody's
OF_THE_RUN |= {f"{stage} {name}" for stage in ("pretrain", "train") for name in TOLD_ALONE}
UNREAD = object()  # stands for the value of a setting that the stage makes nothing of


def described(record):
    """Everything that a table's reader must know of a run but for its regularizer, in one line."""
    pretrain, recover, relabel, train = (record[stage]["settings"] for stage in STAGES)
    images = (
        f"the first {pretrain['images']} training images of each class"
        if pretrain.get("images")
        else "all training images"
    )
    teacher = (
        f"teacher {pretrain['model']} at {pretrain['image_size']} pixels, {pretrain['epochs']} epochs on"
        f" {images}, batch {pretrain['batch_size']}, learning rate {pretrain['learning_rate']:.4g} by"
        f" {pretrain['schedule']}"
    )
    if stored.without_teacher(record):
        teacher = "no teacher"
    recovery = (
        f"{recover['iterations']} iterations of recovery with r_bn {recover['r_bn']:.4g} and step size"
        f" {recover['step_size']:.4g}"
    )
    if recover.get("method", "sre2l") != "sre2l":
        recovery = f"images by {recover['method']}"
    epochs = f"{train.get('epochs', relabel['epochs'])} epochs"
    if epochs != f"{relabel['epochs']} epochs":
        epochs += f" by the labels of {relabel['epochs']}"
    student = f"student {train['model']}, {epochs}, {_learned_by(train)}"
    return f"data set {dataset(record)}; {teacher}; {recovery}; {student}; {evaluation(record)}"


def _learned_by(train):
    """What the student's loss is made of, and whether its views are adversarial."""
    loss = train.get("loss", "kl")
    told = ["mean squared error of logits" if loss == "mse" else f"loss {loss}"]
    if stored.of_hard_labels(loss):
        told = ["hard labels"]
    if loss.startswith("kl"):
        told = [f"temperature {train['temperature']:.4g}"]
        told += ["with cross-entropy"] if loss == "kl+cross-entropy" else []
    if train.get("gradient_weight"):
        told.append(f"input gradients of weight {train['gradient_weight']:.4g}")
    if share := train.get("adversarial_share"):
        of_share = "" if share == 1 else f" of share {share:.4g}"
        told.append(f"adversarial views{of_share} within {train['view_epsilon'] * 255:.4g}/255")
        told += ["against the teacher"] if train.get("views_against") == "teacher" else []
    return ", ".join(told)


def dataset(record):
    """The data set that a run used, which at CPU size can be a part of the table's."""
    return record["pretrain"]["settings"].get("dataset", "not recorded")


def evaluation(record):
    """On how many images a student was attacked, with which standard error at most (that of a share of
    one half), how, and with which epsilon.
    """
    evaluated = record["evaluate student"]
    first = evaluated.get("key", {}).get("images per class")
    part = f" (the first {first} of each class)" if first else ""
    error = standard_error(50, evaluated["images"])
    return (
        f"evaluated on {evaluated['images']} validation images{part}, which leaves a standard error of up to"
        f" {error:.1f} points, epsilon {evaluated['epsilon'] * 255:.4g}/255, protocol"
        f" {' and '.join(evaluated['protocols'])}"
    )


def unlike_the_protocol(record):
    """Whether the evaluation used another epsilon, other attacks or fewer images than the frozen protocol."""
    evaluated = record["evaluate student"]
    custom = any(name not in ("paper", "standard") for name in evaluated["protocols"])
    return custom or bool(evaluated.get("key", {}).get("images per class"))


def regularized(record):
    """What was added to the teacher's loss and to the recovery."""
    pretrain, found = record["pretrain"]["settings"], []
    if pretrain.get("curvature"):
        if pretrain["regularizer"] == "loss":
            coefficient = f"beta {pretrain['loss_beta']:.4g}"
        else:
            coefficient = f"lambda {pretrain['lambda']:.4g}"
        found.append(
            f"curvature regularizer {pretrain['regularizer']}, {coefficient}, h {pretrain['h']:.4g}"
            + _of_the_penalty(pretrain)
        )
    if pretrain.get("gradient_regularization"):
        beta = f"beta {pretrain['gradient_beta']:.4g}"
        found.append(f"gradient regularization, {beta}" + _of_the_penalty(pretrain))
    if pretrain.get("adversarial", "none") != "none":
        found.append(f"adversarial training, {_adversarial(pretrain)}")
    if record["recover"]["settings"].get("cda"):
        found.append("recovery with CDA")
    return "; ".join(found) or "nothing added"


def _of_the_penalty(pretrain):
    """What is not as published of how a regularizer is computed."""
    statistics, every = pretrain.get("curvature_statistics", "running"), pretrain.get("curvature_every", 1)
    told = ", by statistics of the mini-batch" if statistics != "running" else ""
    return told + (f", at one step of {every}" if every > 1 else "")


def _adversarial(pretrain):
    """The style of adversarial training and its number."""
    if pretrain["adversarial"] == "t":
        return f"TRADES style, beta {pretrain['trades_beta']:.4g}"
    if pretrain["adversarial"] == "f":
        return f"ten sign steps within {pretrain['epsilon'] * 255:.4g}/255"
    return f"N-FGSM within {pretrain['epsilon'] * 255:.4g}/255"


def lines(groups):
    """Markdown: how the runs of these groups were made, one line for each setting that occurs, then what
    each arm added.
    """
    settings, added = {}, {}
    for group in groups:
        settings.setdefault(described(group.records[0]), []).append(group)
        if not group.swapped and not stored.without_teacher(group.records[0]):
            added.setdefault(f"{group.arm}: {regularized(group.records[0])}", None)
    told = []
    for text, held in settings.items():
        whose = "" if len(settings) == 1 else " of " + _named(held)
        told.append(f"Setting{whose}: {text}.")
    told += _computed_on(groups)
    return [*told, *([f"Added to the loss or the recovery: {'. '.join(added)}."] if added else [])]


def _computed_on(groups):
    """A line about whose runs were computed on what; none where all were on one kind of device."""
    held = {}
    for group in groups:
        devices = {device for record in group.records for device in gathered.devices(record)}
        held.setdefault(" and ".join(sorted(devices)), []).append(group)
    named = [f"{device}: {_named(of_device)}" for device, of_device in held.items()]
    several = len(held) > 1 or any(" and " in devices for devices in held)
    return [f"Computed on {'; on '.join(named)}."] if several else []


def _named(groups):
    """'sre2l / guard at 1 and 10 images per class', for the arms that have the same sizes together."""
    arms, sizes = {}, {}
    for group in groups:
        used = group.records[0]["recover"]["settings"].get("images_per_class", group.images_per_class)
        arms.setdefault(group.arm, []).append(str(used))
    for arm, held in arms.items():
        sizes.setdefault(" and ".join(held), []).append(arm)
    named = ", ".join(f"{' / '.join(held)} at {size}" for size, held in sizes.items())
    return f"{named} image{'' if list(sizes) == ['1'] else 's'} per class"


# ---- differences ---------------------------------------------------------------------------------


def settings(record):
    """Every setting of a run, apart from its seed and from the fingerprints that follow from it: 'stage
    name' -> value, UNREAD where the stage makes nothing of it beside the others.
    """
    found = {}
    for stage in STAGES:
        recorded = record[stage]["settings"]
        read = read_by_stage(stage, recorded)
        for name, value in recorded.items():
            if name == "labels" and isinstance(value, dict):
                relabelled = record["relabel"]["settings"]
                found |= {f"labels {key}": inside for key, inside in value.items() if key not in relabelled}
            elif name != "seed":
                found[f"{stage} {name}"] = value if name in read else UNREAD
    evaluated = record["evaluate student"]
    found |= {f"evaluation {name}": evaluated.get(name) for name in ("epsilon", "images", "protocols")}
    return {name: value for name, value in found.items() if name not in OF_THE_RUN}


def differences(records):
    """What differs between the settings of records that read them: 'stage name (8, 4)', one for each."""
    told, held = [], [settings(record) for record in records]
    for name in dict.fromkeys(name for one in held for name in one):
        found = [one.get(name, "not recorded") for one in held]
        values = {str(value): value for value in found if value is not UNREAD}
        if len(values) > 1:
            told.append(f"{name} ({', '.join(map(_shown, values.values()))})")
    return told


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def unequal(group):
    """A sentence about what differs between runs that should differ in their seeds alone, or None."""
    found = differences(group.records)
    if not found:
        return None
    where = place(group.dataset, group.images_per_class, group.arm)
    return (
        f"the runs of {where} are not equal but for their seeds, so their mean mixes settings:"
        f" {'; '.join(found)}"
    )


def warnings(groups):
    """Markdown: a line for each group whose runs are not equal but for their seeds, and one of what the
    checks of evaluations say.
    """
    told = [f"**Warning**: {said}." for said in map(unequal, groups) if said]
    checked = {}
    for group in groups:
        for run in group.runs:
            for whose, text in _said_by_checks(run):
                finding, _, meaning = text.partition(": ")
                place = f"{run.arm} at {size_text(run.images_per_class)}, seed {run.seed}, {whose}"
                checked.setdefault(meaning, {})[f"{place}: {finding}"] = None
    lines = [f"{'; '.join(found)}{f': {meaning}' if meaning else ''}" for meaning, found in checked.items()]
    return told + [f"**Warning** of evaluations: {line}." for line in lines]


def _said_by_checks(run):
    """('student', text) of each warning of a run's evaluations and curve."""
    from guard.attacks import checks  # for it torch is loaded

    said = checks.said_of_both(run.record)
    for text in (run.curve or {}).get("warnings", ()):
        within, _, rest = text.partition(": ")
        if within.startswith("within "):  # else it is of the model, and the evaluation says it as well
            said.append((f"student, {within}", rest))
    return said

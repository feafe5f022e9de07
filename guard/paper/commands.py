"""The run.sh command of a planned run, and when two commands ask for the same. Only the standard library."""

import shlex
from pathlib import Path

from guard.paper.arms import ARMS
from guard.paper.plan import SCALES, attacks_of
from guard.recipes import recipe
from guard.settings import STAGES

OF_THE_MACHINE = ("-r", "-o", "-u")  # folders and device: flags of run.sh that differ between machines
OF_THE_ATTACKS = tuple(("train", flag) for flag in ("--protocol", "--attacks", "--images"))


def command_of(run, scale, *, root, output, device=None, protocol=None, images=None):
    """The words of the run's `bash run.sh`. protocol, images: of the attacks, where they are not the
    scale's.
    """
    setting, arm = SCALES[scale][run.dataset], ARMS[run.images_from]
    words = ["bash", "run.sh", "-d", setting.dataset, "-r", str(root), "-o", str(output), "-x", run.name]
    words += ["-y", f"{arm.teacher}-{run.seed}", "-c", str(run.images_per_class), "-s", str(run.seed)]
    flags, stages = arm.flags.split(), arm.stages.split()
    if run.swapped:  # both teachers are there already, so only flags of the recovery mean anything
        words += ["-Y", f"{ARMS[run.labels_from].teacher}-{run.seed}"]
        flags, stages = [flag for flag in flags if flag == "-A"], []
    else:
        words += ["-p"]
    words += [*setting.flags.split(), *flags]
    words += ["-u", device] if device else []
    stages = [*setting.stages.split(), *stages]
    if protocol:  # which attacks that are named would come in place of
        none_named = ["--attacks", ""] if "--attacks" in stages else []
        stages += ["train", *none_named, "--protocol", protocol]
    stages += ["train", "--images", str(images)] if images is not None else []
    return [*words, "--", *stages] if stages else words


def of_table(run, table, scale, *, protocol=None, images=None, **where):
    """The words as of `command_of`, with the attacks that the plan has for a table where none are given."""
    planned = attacks_of(table, scale, run.dataset)
    images = planned[1] if images is None else images
    return command_of(run, scale, protocol=protocol or planned[0], images=images, **where)


def shown(words):
    """A command as one would type it, without what differs between machines."""
    place = words.index("--") if "--" in words else len(words)
    kept, skip = [], False
    for word in words[:place]:
        if not skip and word not in OF_THE_MACHINE:
            kept.append(word)
        skip = word in OF_THE_MACHINE  # its value comes next
    return shlex.join(kept + words[place:])


def meaning(words):
    """{(stage, flag): value} of a command; of a flag that is given twice the last counts. The stage of
    run.sh's own flags is run.sh.
    """
    found, stage, flag, of_stages = {}, "run.sh", None, False
    for word in words:
        if word == "--":
            of_stages, flag = True, None
        elif of_stages and word in STAGES and flag != "--teacher-mode":  # whose value train may be
            stage, flag = word, None
        elif word.startswith("-"):
            flag = word
            found[stage, flag] = None
        elif flag:
            found[stage, flag], flag = word, None
    return found


def same(recorded, words, aside=()):
    """Whether a recorded command line asks for what the words ask for, but for folders, device, and the
    (stage, flag) pairs in `aside`.
    """
    first, second = meaning(shlex.split(recorded)), meaning(shlex.split(shown(words)))
    return all(first.get(flag, "") == second.get(flag, "") for flag in {*first, *second} - set(aside))


def as_planned(run):
    """Whether a recorded run was asked for all that the plan asks of it, attacks and their images aside; not
    so where the plan has no such arm or data set, or no longer.
    """
    if run.dataset not in SCALES.get(run.scale, {}) or not {run.images_from, run.labels_from} <= {*ARMS}:
        return False
    words = command_of(run, run.scale, root="", output="")
    return same(run.command, words, aside=OF_THE_ATTACKS)


def attacked_as_planned(run, table):
    """Whether a recorded run was asked for all that the plan asks of it for a table, attacks and all."""
    return same(run.command, of_table(run, table, run.scale, root="", output=""))


def teacher_at(words, flag):
    """Path of the checkpoint of the teacher that a command names by -y or -Y."""
    dataset = last(words, "-d")
    model = last(words, "-m") if "-m" in words else recipe(dataset).pretrain.model
    return Path(last(words, "-o")) / "teachers" / dataset / model / last(words, flag) / "checkpoint.pt"


def last(words, flag):
    """What follows the last occurrence of a flag."""
    return words[len(words) - words[::-1].index(flag)]

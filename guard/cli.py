"""Flags made from a recipe's fields."""

import argparse
import math
import os
import re
import sys
from dataclasses import fields

from guard import earlier, ending, recipes, torchrun
from guard.errors import printable
from guard.settings import STAGES, as_dict

PATHS = ("DIR", "FILE", "PATH")  # metavars of flags that take one


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, that takes no abbreviations, and that has the flags
    every stage has.
    """

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message):
        ending.end(2, printable(f"error: {message}; see {self.prog} --help"))

    def parse_known_args(self, args=None, namespace=None):
        """As of any parser, but for a path that is empty, as an unset variable of the shell leaves it."""
        found, others = super().parse_known_args(args, namespace)
        for action in self._actions:
            given = getattr(found, action.dest, None)
            if action.metavar in PATHS and "" in (given if isinstance(given, list) else [given]):
                self.error(f"argument {'/'.join(action.option_strings)}: needs a value")
        return found, others


def stage_parser(stage, description, *stage_recipes, argv, hidden=()):
    """A Parser with the flags of recipes `stage_recipes` (names in STAGES) and those common to
    all stages.

    Defaults are left to `resolve`; in the help stand those of the data set and the recipe that argv names
    with --dataset and --recipe, or of each family. hidden: flags that the help leaves out.
    """
    parser = Parser(prog=f"python -m {stage}", description=description)
    parser.settings = {}  # flag -> the first of the recipes that has it; it sets all of them
    of_students = {"relabel", "train"} & {*stage_recipes}
    dataset, student_recipe = _named(argv, "--dataset", "-d"), _named(argv, "--recipe")
    if not of_students or student_recipe not in recipes.STUDENT_RECIPES:
        student_recipe = None
    whose = ", ".join(filter(None, (dataset, student_recipe and f"recipe {student_recipe}")))
    defaults = f" (defaults of {whose})" if whose else ""
    for name in stage_recipes:
        group = parser.add_argument_group(f"settings of {name}{defaults}")
        for row in fields(STAGES[name]):
            if _flag(row) not in parser.settings:
                default = _default_text(name, row, dataset, student_recipe or "paper")
                _add_setting(group, row, default, hidden=_flag(row) in hidden)
                parser.settings[_flag(row)] = name
    if of_students:
        parser.add_argument(
            "--recipe",
            choices=recipes.STUDENT_RECIPES,
            default="paper",
            help=f"named settings of relabel and train, to be given to both"
            f"{_choices_text(recipes.STUDENT_RECIPES)} [paper]",
        )
    common = parser.add_argument_group("common")
    common.add_argument(
        "--seed",
        type=number(int, low=0, high=2**62),
        default=0,
        metavar="N",
        help="seed of every random draw [0]",
    )
    common.add_argument(
        "--device",
        type=device_ids,
        default="auto",
        metavar="ID",
        help="cpu, or the id of a GPU; under torchrun 0,1,... [0, or the CPU where there is no GPU]",
    )
    common.add_argument("--record", metavar="FILE", help="the record to write to [OUTPUT/log.json]")
    common.add_argument(
        "--force",
        action="store_true",
        help="do the stage again although it is finished, or was made with other settings",
    )
    common.add_argument("--check", action="store_true", help="check the flags and stop")
    return parser


def stage_options(stage, argv, *more):
    """What the words of a stage's command set of its recipes, with its data set, its root, and the flags
    `more`; its other flags are left out.
    """
    of_stage = ("train", "evaluate", "relabel") if stage == "train" else (stage,)
    parser = stage_parser(stage, "", *of_stage, argv=argv)
    add_data(parser, required=False)
    for flag in more:
        parser.add_argument(flag)
    return parser.parse_known_args(argv)[0]


def add_workers(parser):
    parser.add_argument(
        "--workers",
        type=number(int, low=0),
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode image files [cores, at most 8]",
    )


def add_data(parser, required=True):
    parser.add_argument(
        "--dataset",
        "-d",
        required=required,
        metavar="NAME",
        help=(
            "digits, cifar10, cifar100, tiny-imagenet, imagenette, imagenet, or any"
            " ROOT/NAME/{train,val}/CLASS/*.jpg"
        ),
    )
    add_root(parser)


def add_root(parser):
    parser.add_argument(
        "--root", "-r", default="data/raw", metavar="DIR", help="folder that holds the data sets [data/raw]"
    )


def add_files(parser, **files):
    """Flags of a stage's files, all of them needed: name -> help. One called teacher is a file, distilled
    images may be one, the others are folders.
    """
    for name, text in files.items():
        metavar = {"teacher": "FILE", "distilled": "PATH"}.get(name, "DIR")
        parser.add_argument(f"--{name}", required=True, metavar=metavar, help=text)


def add_family(parser, also=""):
    """The flag of stages that take a data set's defaults. also: what else they take of it, for its help."""
    text = f"take this data set's defaults{also} [that of the teacher]"
    parser.add_argument("--dataset", "-d", metavar="NAME", help=text)


def family_of(options, teacher):
    """Name of the data set whose defaults count, that of --dataset or of the teacher. A note, from one of
    several processes, says where these are others.
    """
    name = options.dataset or teacher.dataset
    if recipes.recipe(name) != recipes.recipe(teacher.dataset) and torchrun.is_first():
        kind = "its" if name in recipes.RECIPES else "those of any folder of images"
        told = (
            f"note: --dataset {name}: the defaults are {kind}, not those of the teacher's {teacher.dataset}"
        )
        print(told, file=sys.stderr, flush=True)
    return name


def run_of(options):
    """Where and how a stage runs, by the names of its function's arguments."""
    return {
        "output": options.output,
        "log": options.record,
        "seed": options.seed,
        "device_name": options.device,
        "force": options.force,
    }


def resolve(options, dataset, stage):
    """The stage's settings for the data set, with every flag that was given in place of its default. Ends the
    command where the layout is refused to a precision that chooses it.
    """
    given = {row.name: getattr(options, row.name, None) for row in fields(STAGES[stage])}
    settings = recipes.resolve(dataset, stage, given, getattr(options, "recipe", "paper"))
    if given.get("channels_last") is False and settings.precision == "auto":
        told = "--precision auto chooses --channels-last, too; name a precision beside --no-channels-last"
        Parser(prog=f"python -m {stage}").error(told)
    return settings


def given_flags(parser, options, stage):
    """{flag: name of its setting} of the flags that the user gave and that set this stage's recipe alone."""
    rows = fields(STAGES[stage])
    return {
        _flag(row): row.name
        for row in rows
        if getattr(options, row.name, None) is not None and parser.settings[_flag(row)] == stage
    }


BETAS = {"loss_beta", "gradient_beta", "trades_beta"}  # which run.sh's -B gives together


def tell_unread(parser, options, stage, settings, reader, read=None):
    """A note of those of the given flags that nothing reads, such as lambda without a regularizer.

    settings: of the stage. reader: words for who does not read them. read: names of the settings that are
    read [what guard.earlier.read_by_stage says]. One of several processes tells.
    """
    if read is None:
        read = earlier.read_by_stage(stage, as_dict(settings))
    flags = {flag: name.rstrip("_") for flag, name in given_flags(parser, options, stage).items()}
    some_beta = BETAS & {*flags.values()} & {*read}
    unread = [flag for flag, name in flags.items() if name not in read and not (some_beta and name in BETAS)]
    if unread and torchrun.is_first():
        print(f"note: {', '.join(unread)}: not read {reader}", file=sys.stderr, flush=True)


def _flag(row):
    return row.metadata["flag"] or "--" + row.name.replace("_", "-")


def _add_setting(group, row, default, hidden):
    limits = row.metadata
    unit, choices = ", " + limits["unit"] if limits["unit"] else "", _choices_text(limits["choices"])
    text = argparse.SUPPRESS if hidden else f"{limits['text']}{unit} [{default}]{choices}".replace("%", "%%")
    if row.type is bool:
        group.add_argument(
            _flag(row), dest=row.name, action=argparse.BooleanOptionalAction, default=None, help=text
        )
    elif row.type is str:
        group.add_argument(
            _flag(row),
            dest=row.name,
            type=_some_of(*limits["names"]) if limits["names"] else str,
            choices=limits["choices"],
            metavar="NAME",
            help=text,
        )
    else:
        kind = number(row.type, *(limits[name] for name in ("low", "high", "above", "below")))
        kind = _one_or_several(kind) if limits["several"] else kind
        group.add_argument(
            _flag(row), dest=row.name, type=kind, metavar="N" if row.type is int else "X", help=text
        )


def _some_of(what, known):
    """A parser of names of `what` with commas between them, or of nothing, which leaves the text as it is."""

    def parse(text):
        for name in text.split(",") if text else ():
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {what} '{name}'; there are {', '.join(known)}")
        return text

    return parse


def _choices_text(choices):
    return f" ({', '.join(choices)})" if choices else ""


def _default_text(stage, row, dataset, student_recipe):
    def shown(name):
        return recipes.text_of(row, getattr(recipes.resolve(name, stage, {}, student_recipe), row.name))

    if dataset:
        return shown(dataset)
    usual = shown("imagenette")
    others = [f"{name} {shown(name)}" for name in recipes.RECIPES if shown(name) != usual]
    return "; ".join([usual, *others])


def _named(argv, *flags):
    """The value that argv gives to one of some flags, or None."""
    for position, word in enumerate(argv):
        if word in flags and position + 1 < len(argv):
            return argv[position + 1]
        flag, given, value = word.partition("=")
        if given and flag.startswith("--") and flag in flags:
            return value
    return None


def number(kind, low=None, high=None, above=None, below=None):
    """A parser of one number, within its limits; a fraction such as 8/255 is a number, too."""

    def parse(text):
        try:
            top, _, bottom = text.partition("/")
            value = float(top) / float(bottom) if bottom and kind is float else kind(text)
        except (ValueError, ZeroDivisionError):
            raise argparse.ArgumentTypeError(
                f"'{text}' is no {'whole number' if kind is int else 'number'}"
            ) from None
        wanted = (
            [f"at least {low}"] * (low is not None)
            + [f"above {above}"] * (above is not None)
            + [f"at most {high}"] * (high is not None)
            + [f"below {below}"] * (below is not None)
        )
        fine = (
            (abs(value) < 2**63 if kind is int else math.isfinite(value))
            and (low is None or value >= low)
            and (high is None or value <= high)
            and (above is None or value > above)
            and (below is None or value < below)
        )
        if not fine:
            raise argparse.ArgumentTypeError(
                f"{text} is out of range, it has to be {' and '.join(wanted) or 'finite'}"
            )
        return value

    return parse


def numbers(number):
    """A parser of a tuple of numbers with commas between them; number: a parser of each."""
    return lambda text: tuple(number(word) for word in text.split(","))


def add_normalization(parser):
    """--mean and --std of weights that were trained elsewhere."""
    mean, std = number(float, low=0.0, high=1.0), number(float, above=0.0, high=1.0)
    for name, what, kind in (("mean", "means", mean), ("std", "standard deviations", std)):
        parser.add_argument(
            f"--{name}",
            type=_of_three_channels(kind),
            metavar="R,G,B",
            help=f"with --weights: {what} by which its pixels in [0,1] were normalized [the recipe's]",
        )


def _of_three_channels(number):
    def parse(text):
        values = numbers(number)(text)
        if len(values) != 3:
            raise argparse.ArgumentTypeError(f"'{text}' is not three numbers, one for each channel")
        return values

    return parse


def _one_or_several(number):
    """A parser of one number, or of several with commas between them, which make a tuple."""

    def parse(text):
        values = numbers(number)(text)
        return values if len(values) > 1 else values[0]

    return parse


def device_ids(text):
    """argparse's type of --device: 'auto', 'cpu', or ids of GPUs with commas between them."""
    if not re.fullmatch(r"auto|cpu|\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither cpu nor the id of a GPU (0, or 0,1 under torchrun)"
        )
    return text

"""Flags of stage train; the student is trained in train/student.py, and judged in train/evaluation.py."""

import functools
import sys

from guard import cli, earlier, ending, recipes, torchrun
from guard.settings import as_dict
from train import hard_labels

DESCRIPTION = """Trains a student on distilled images and their labels, attacks it and its teacher, reports.

reads   DISTILLED/CLASS/*.png   distilled images; or a file of guard.export; with --labels hard also one of
                                tensors in another layout that docs/usage.md lists
        LABELS                  a folder of stage relabel; 'online': labels made on the fly by TEACHER, with
                                the settings of relabel; or 'hard': the images' own, in views by these
        TEACHER                 attacked beside the student; with --labels online the teacher of the labels;
                                none with --labels hard
        ROOT/DATASET/val        what both are measured on
writes  OUTPUT/checkpoint.pt    the student
        RECORD                  the record; beside it report.md, images.png, curves.png, robustness.png"""


def _parser(argv):
    parser = cli.stage_parser("train", DESCRIPTION, "train", "evaluate", "relabel", argv=argv)
    cli.add_data(parser)
    cli.add_workers(parser)
    cli.add_files(
        parser,
        distilled="folder of the distilled images, or a file of them",
        labels="folder of the soft labels, 'online' or 'hard'",
        output="folder of the student",
    )
    parser.add_argument("--teacher", metavar="FILE", help="checkpoint of the teacher")
    hard_labels.add_flags(parser, "with --labels hard: ")
    return parser


def _check_labels(parser, options):
    """Ends with one line where flags do not go with the kind of labels."""
    settings = cli.resolve(options, options.dataset, "train")
    if options.labels == "hard":
        unread = hard_labels.unread(parser, options)
        if options.teacher:
            unread.insert(0, "--teacher")
        if unread:
            parser.error(f"{unread[0]} goes with soft labels; --labels hard has neither them nor a teacher")
        hard_labels.check_dsa(parser, hard_labels.as_settings(settings))
        return
    if not options.teacher:
        parser.error("the following arguments are required: --teacher")
    for name, given in hard_labels.of_images(options).items():
        if given:
            parser.error(f"--{name.replace('_', '-')} goes with --labels hard")
    for_views = [flag for flag in cli.given_flags(parser, options, "relabel") if flag != "--epochs"]
    stored = [flag for flag in for_views if flag in ("--label-format", "--top-classes")]
    if stored and options.labels == "online":
        parser.error(f"{stored[0]} is of labels that are stored; make them with python -m relabel")
    if for_views and options.labels != "online":
        parser.error(f"{for_views[0]} goes with --labels online or hard; a folder of labels has its own")
    hard_labels.check_dsa(parser, settings)


def _inputs(options, settings, label_settings):
    """What the student is made of, as train/inputs.py has it."""
    from train import inputs

    shared = {
        "dataset": options.dataset,
        "root": options.root,
        "distilled": options.distilled,
        "label_settings": label_settings,
        "seed": options.seed,
    }
    if options.labels == "hard":
        return inputs.without_teacher(**shared, **hard_labels.of_images(options))
    found = inputs.with_teacher(
        settings, **shared, teacher_path=options.teacher, labels=options.labels, epochs=options.epochs
    )
    if options.labels != "online":
        _tell_other_recipe(options, found.labels.recipe)
    return found


VIEWS = ("augmentation", "crop_scale", "flip", "mix", "mix_alpha")


def _tell_other_recipe(options, label_recipe):
    """A note where stored labels have the views of another named recipe than the student's."""

    def views_of(settings):
        read = earlier.read_by_stage("relabel", as_dict(settings))
        return {name: read.get(name) for name in VIEWS}

    alike = [
        name
        for name in recipes.STUDENT_RECIPES
        if views_of(recipes.resolve(options.dataset, "relabel", {}, name)) == views_of(label_recipe)
    ]
    if alike and options.recipe not in alike and torchrun.is_first():
        print(
            f"note: the labels in {options.labels} have the views of recipe {' or '.join(alike)}, the student"
            f" has the settings of recipe {options.recipe}; --recipe goes to both",
            file=sys.stderr,
            flush=True,
        )


def main(argv):
    parser = _parser(argv)
    options = parser.parse_args(argv)
    _check_labels(parser, options)
    if isinstance(options.epsilon, tuple):
        parser.error(
            "--epsilon takes one number here; python -m train.evaluate takes several and draws the curve"
        )
    if options.check:
        return
    settings, label_settings, attack_settings = (
        cli.resolve(options, options.dataset, stage) for stage in ("train", "relabel", "evaluate")
    )
    if options.labels == "hard":
        settings = hard_labels.as_settings(settings)

    def work():
        from guard.distilled import image_folder
        from train import experiment

        image_folder.check_apart(options.output, options.distilled)
        for stage, chosen in (("train", settings), ("relabel", label_settings)):
            cli.tell_unread(parser, options, stage, chosen, "in training this student")
        where = cli.run_of(options)
        seed = where.pop("seed")
        experiment.run(
            settings,
            attack_settings,
            functools.partial(_inputs, options, settings, label_settings),
            dataset=options.dataset,
            root=options.root,
            where=where,
            seed=seed,
            workers=options.workers,
            teacher_path=options.teacher,
        )

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

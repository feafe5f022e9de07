"""Flags of stage train; the student is trained in train/student.py, and judged in train/evaluation.py."""

import sys
from dataclasses import replace

from guard import cli, ending

DESCRIPTION = """Trains a student on distilled images and their labels, attacks it and its teacher, reports.

reads   DISTILLED/CLASS/*.png   distilled images; with --labels hard also a file of tensors in a layout that
                                docs/usage.md lists
        LABELS                  a folder of stage relabel; 'online': labels made on the fly by TEACHER, with
                                the settings of relabel; or 'hard': the images' own, in views by these
        TEACHER                 attacked beside the student; with --labels online the teacher of the labels;
                                none with --labels hard
        ROOT/DATASET/val        what both are measured on
writes  OUTPUT/checkpoint.pt    the student
        RECORD                  the record; beside it report.md, images.png, curves.png, robustness.png"""

# What says something of the teacher's labels. Hard labels have no teacher, and one loss.
OF_SOFT_LABELS = {
    *("--loss", "--temperature", "--squared-temperature", "--reuse-labels", "--gradient-weight"),
    *("--adversarial-share", "--views-against", "--view-epsilon"),
    *("--teacher-mode", "--input-gradients", "--label-format", "--top-classes"),
}


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
    parser.add_argument(
        "--image-size",
        type=cli.number(int, low=8),
        metavar="N",
        help="with --labels hard: side of the images, pixels [the recipe's]",
    )
    parser.add_argument(
        "--clamp",
        action="store_true",
        help="with --labels hard: cut off what lies outside [0,1] in a file, instead of refusing it",
    )
    return parser


def _check_labels(parser, options):
    """Ends with one line where flags do not go with the kind of labels."""
    given = {stage: cli.given_flags(parser, options, stage) for stage in ("train", "relabel")}
    if options.labels == "hard":
        unread = [flag for flag in [*given["train"], *given["relabel"]] if flag in OF_SOFT_LABELS]
        if options.teacher:
            unread.insert(0, "--teacher")
        if unread:
            parser.error(f"{unread[0]} goes with soft labels; --labels hard has neither them nor a teacher")
        return
    if not options.teacher:
        parser.error("the following arguments are required: --teacher")
    if options.image_size or options.clamp:
        parser.error(f"{'--image-size' if options.image_size else '--clamp'} goes with --labels hard")
    for_views = [flag for flag in given["relabel"] if flag != "--epochs"]
    if for_views and options.labels != "online":
        parser.error(f"{for_views[0]} goes with --labels online or hard; a folder of labels has its own")


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
        return inputs.without_teacher(**shared, image_size=options.image_size, clamp=options.clamp)
    return inputs.with_teacher(
        settings, **shared, teacher_path=options.teacher, labels=options.labels, epochs=options.epochs
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
        settings = replace(settings, loss="cross-entropy")
    data = {"dataset": options.dataset, "root": options.root}
    run = {"seed": options.seed, "workers": options.workers}

    def work():
        from guard.run.stage import Stage
        from train import evaluation, student

        stage = Stage("train", options.output, log=options.record, force=options.force)
        with stage.entered(options.device) as device:
            inputs = _inputs(options, settings, label_settings)
            judgement = evaluation.Judgement(
                attack_settings, **data, **run, device=device, force=options.force
            )
            evaluation.check(judgement, options.teacher)
            path = student.train(settings, inputs, stage, **run)
            evaluation.judge_experiment(
                stage,
                judgement,
                teacher=inputs.teacher,
                teacher_path=options.teacher,
                student_path=path,
                distilled=inputs.distilled,
            )

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

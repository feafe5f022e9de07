"""Flags of stage train; the student is trained in train/student.py, and judged in train/evaluation.py."""

import sys

from guard import cli, ending

DESCRIPTION = """Trains a student on distilled images and soft labels, attacks it and its teacher, reports.

reads   DISTILLED/CLASS/*.png   distilled images
        LABELS                  a folder of stage relabel; or 'online': labels made on the fly by
                                TEACHER, with the settings of relabel
        TEACHER                 attacked beside the student; with --labels online the teacher of the labels
        ROOT/DATASET/val        what both are measured on
writes  OUTPUT/checkpoint.pt    the student
        RECORD                  the record; beside it report.md, images.png, curves.png, robustness.png"""


def _parser(argv):
    parser = cli.stage_parser("train", DESCRIPTION, "train", "evaluate", "relabel", argv=argv)
    cli.add_data(parser)
    cli.add_workers(parser)
    cli.add_files(
        parser,
        distilled="folder of the distilled images",
        labels="folder of the soft labels, or 'online'",
        teacher="checkpoint of the teacher",
        output="folder of the student",
    )
    return parser


def main(argv):
    parser = _parser(argv)
    options = parser.parse_args(argv)
    for_labels = [flag for flag in cli.given_flags(parser, options, "relabel") if flag != "--epochs"]
    if for_labels and options.labels != "online":
        parser.error(f"{for_labels[0]} goes with --labels online; a folder of labels has its own")
    if isinstance(options.epsilon, tuple):
        parser.error(
            "--epsilon takes one number here; python -m train.evaluate takes several and draws the curve"
        )
    if options.check:
        return
    settings, label_settings, attack_settings = (
        cli.resolve(options, options.dataset, stage) for stage in ("train", "relabel", "evaluate")
    )
    data = {"dataset": options.dataset, "root": options.root}
    run = {"seed": options.seed, "workers": options.workers}

    def work():
        from guard.run.stage import Stage
        from train import evaluation, student

        stage = Stage("train", options.output, log=options.record, force=options.force)
        with stage.entered(options.device) as device:
            inputs = student.read_inputs(
                settings,
                **data,
                teacher_path=options.teacher,
                distilled=options.distilled,
                labels=options.labels,
                label_settings=label_settings,
                epochs=options.epochs,
                seed=options.seed,
            )
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
                distilled=options.distilled,
            )

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

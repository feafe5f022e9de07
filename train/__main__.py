"""Flags of stage train; the work is in train/student.py, what follows it in train/evaluate.py."""

import sys

from guard import cli, ending

DESCRIPTION = """Trains a student on distilled images and soft labels, attacks it and its teacher, and writes the report.

reads   DISTILLED/CLASS/*.png   distilled images
        LABELS                  a folder of stage relabel; or 'online': labels made on the fly by TEACHER, with the settings of relabel
        TEACHER                 attacked beside the student; with --labels online the teacher of the labels
        ROOT/DATASET/val        what both are measured on
writes  OUTPUT/checkpoint.pt    the student
        RECORD                  the record; beside it report.md, images.png, curves.png, robustness.png"""


def main(argv):
    parser = cli.stage_parser("train", DESCRIPTION, "train", "evaluate", "relabel", argv=argv)
    cli.add_data(parser)
    cli.add_workers(parser)
    parser.add_argument("--distilled", required=True, metavar="DIR", help="folder of the distilled images")
    parser.add_argument(
        "--labels", required=True, metavar="DIR", help="folder of the soft labels, or 'online'"
    )
    parser.add_argument("--teacher", required=True, metavar="FILE", help="checkpoint of the teacher")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the student")
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
    settings = [cli.resolve(options, options.dataset, stage) for stage in ("train", "relabel", "evaluate")]

    def work():
        from train import student

        student.train(
            *settings,
            epochs=options.epochs,
            dataset=options.dataset,
            root=options.root,
            distilled=options.distilled,
            labels=options.labels,
            teacher_path=options.teacher,
            output=options.output,
            log=options.record,
            seed=options.seed,
            device=options.device,
            workers=options.workers,
            force=options.force,
        )

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

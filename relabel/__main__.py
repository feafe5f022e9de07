"""Flags of stage relabel; the work is in relabel/labelling.py."""

import sys

from guard import cli, ending

DESCRIPTION = """Makes soft labels for many views of distilled images.

reads   TEACHER                 a checkpoint of stage pretrain
        DISTILLED/CLASS/*.png   ours, or images distilled elsewhere; or a file of guard.export
writes  OUTPUT/epoch_NNNN.npy   a row per image: its view, how it is mixed, the teacher's logits in fp16
        OUTPUT/manifest.json    fingerprints of teacher and images, settings, seed"""


def main(argv):
    parser = cli.stage_parser("relabel", DESCRIPTION, "relabel", argv=argv)
    cli.add_family(parser)
    cli.add_files(
        parser,
        teacher="checkpoint of the teacher",
        distilled="folder of the distilled images, or a file of them",
        output="folder of the labels",
    )
    options = parser.parse_args(argv)
    if options.check:
        return

    def work():
        from guard.networks import checkpoint
        from relabel import labelling

        teacher = checkpoint.load(options.teacher, "teacher")
        settings = cli.resolve(options, cli.family_of(options, teacher), "relabel")
        cli.tell_unread(parser, options, "relabel", settings, "in making these labels")
        labelling.relabel(settings, teacher, distilled=options.distilled, **cli.run_of(options))

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

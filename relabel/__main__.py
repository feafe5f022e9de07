"""Flags of stage relabel; the work is in relabel/labelling.py."""

import sys

from guard import cli, ending

DESCRIPTION = """Makes soft labels for many views of distilled images.

reads   TEACHER                 a checkpoint of stage pretrain
        DISTILLED/CLASS/*.png   ours, or images distilled elsewhere
writes  OUTPUT/epoch_NNNN.npy   a row per image: its view, how it is mixed, the teacher's logits in fp16
        OUTPUT/manifest.json    fingerprints of teacher and images, settings, seed"""


def main(argv):
    parser = cli.stage_parser("relabel", DESCRIPTION, "relabel", argv=argv)
    parser.add_argument(
        "--dataset", "-d", metavar="NAME", help="take this data set's defaults [that of the teacher]"
    )
    parser.add_argument("--teacher", required=True, metavar="FILE", help="checkpoint of the teacher")
    parser.add_argument("--distilled", required=True, metavar="DIR", help="folder of the distilled images")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the labels")
    options = parser.parse_args(argv)
    if options.check:
        return

    def work():
        from guard.networks import checkpoint
        from relabel import labelling

        teacher = checkpoint.load(options.teacher, "teacher")
        settings = cli.resolve(options, options.dataset or teacher.dataset, "relabel")
        labelling.relabel(
            settings,
            teacher,
            distilled=options.distilled,
            output=options.output,
            log=options.record,
            seed=options.seed,
            device_name=options.device,
            force=options.force,
        )

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

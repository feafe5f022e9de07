"""Flags of stage recover; the work is in recover/recovery.py."""

import sys

from guard import cli, ending

DESCRIPTION = """Recovers images from a teacher's batch-norm statistics (SRe2L), optionally with CDA's curriculum of crops.

reads   TEACHER                 a checkpoint of stage pretrain, with batch norm
writes  OUTPUT/CLASS/CLASS_N.png
        OUTPUT/manifest.json    the teacher's fingerprint, settings, seed, what each image hashes to"""


def main(argv):
    parser = cli.stage_parser("recover", DESCRIPTION, "recover", argv=argv)
    parser.add_argument(
        "--dataset", "-d", metavar="NAME", help="take this data set's defaults [that of the teacher]"
    )
    parser.add_argument("--teacher", required=True, metavar="FILE", help="checkpoint of the teacher")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the images")
    options = parser.parse_args(argv)
    if options.check:
        return

    def work():
        from recover import recovery

        teacher = recovery.load_teacher(options.teacher)
        settings = cli.resolve(options, options.dataset or teacher.dataset, "recover")
        recovery.recover(
            settings,
            teacher,
            output=options.output,
            log=options.record,
            seed=options.seed,
            device=options.device,
            force=options.force,
        )

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

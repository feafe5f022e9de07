"""Flags of stage recover; the work is in recover/recovery.py, the methods in files of their own."""

import sys

from guard import cli, ending

DESCRIPTION = """Makes distilled images: recovered from a teacher's running statistics (SRe2L, where asked
for with CDA's curriculum of crops), or by another method.

reads   TEACHER                 a checkpoint of stage pretrain
        ROOT/DATASET/train      for methods that look at training images
writes  OUTPUT/CLASS/CLASS_N.png
        OUTPUT/manifest.json    the teacher's fingerprint, settings, seed, what each image hashes to"""


def main(argv):
    parser = cli.stage_parser("recover", DESCRIPTION, "recover", argv=argv)
    cli.add_family(parser, also=" and, for methods that look at them, its training images")
    cli.add_root(parser)
    cli.add_files(parser, teacher="checkpoint of the teacher", output="folder of the images")
    options = parser.parse_args(argv)
    # The method decides what a teacher must have, and it is no matter of a data set.
    method = cli.resolve(options, options.dataset, "recover").method
    if options.check:
        return

    def work():
        from recover import recovery

        teacher = recovery.load_teacher(options.teacher, method)
        settings = cli.resolve(options, cli.family_of(options, teacher), "recover")
        data = {"dataset": options.dataset, "root": options.root}
        cli.tell_unread(parser, options, "recover", settings, f"by image method {settings.method}")
        recovery.recover(settings, teacher, **data, **cli.run_of(options))

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Flags of stage recover; the work is in recover/recovery.py, the methods in files of their own."""

import sys

from guard import cli, ending

DESCRIPTION = """Makes distilled images: recovered from a teacher's running statistics (SRe2L, where asked
for with CDA's curriculum of crops), or by another method.

reads   TEACHER                 a checkpoint of stage pretrain
        ROOT/DATASET/train      for methods that look at training images
writes  OUTPUT/CLASS/CLASS_N.png
        OUTPUT/manifest.json    the teacher's fingerprint, settings, seed, what each image hashes to"""


def _tell_unread(flags, settings):
    """A warning of those of the flags that the image method does not read, such as the iterations of
    random images. flags: {flag: name of its setting}.
    """
    from guard import earlier
    from guard.run import processes
    from guard.settings import as_dict

    read = earlier.read_by_stage("recover", as_dict(settings))
    unread = [flag for flag, name in flags.items() if name not in read]
    if unread and processes.rank() == 0:
        print(f"warning: {', '.join(unread)}: not read by image method {settings.method}", file=sys.stderr)


def main(argv):
    parser = cli.stage_parser("recover", DESCRIPTION, "recover", argv=argv)
    cli.add_family(parser)
    cli.add_root(parser)
    cli.add_files(parser, teacher="checkpoint of the teacher", output="folder of the images")
    options = parser.parse_args(argv)
    if options.check:
        return

    def work():
        from recover import recovery

        # The method decides what a teacher must have, and it is no matter of a data set.
        method = cli.resolve(options, options.dataset, "recover").method
        teacher = recovery.load_teacher(options.teacher, method)
        settings = cli.resolve(options, options.dataset or teacher.dataset, "recover")
        data = {"dataset": options.dataset, "root": options.root}
        recovery.recover(settings, teacher, **data, **cli.run_of(options))
        _tell_unread(cli.given_flags(parser, options, "recover"), settings)

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Flags of stage pretrain; the work is in pretrain/teacher.py."""

import functools
import sys

from guard import cli, ending

DESCRIPTION = """Trains a teacher, or makes one of a state_dict at hand.

reads   ROOT/DATASET/{train,val}
writes  OUTPUT/checkpoint.pt    weights, settings, normalization, class names, accuracy, curvature
        OUTPUT/log.json         the record"""


def main(argv):
    parser = cli.stage_parser("pretrain", DESCRIPTION, "pretrain", argv=argv)
    cli.add_data(parser)
    cli.add_workers(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the teacher")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help=(
            "make the teacher of this state_dict of --model instead of training one; or of torchvision's"
            " weights of that name, such as IMAGENET1K_V1"
        ),
    )
    options = parser.parse_args(argv)
    settings = cli.resolve(options, options.dataset, "pretrain")
    if options.check:
        return

    def work():
        from pretrain import teacher

        make = (
            functools.partial(teacher.adopt, weights=options.weights) if options.weights else teacher.pretrain
        )
        make(
            settings,
            dataset=options.dataset,
            root=options.root,
            output=options.output,
            log=options.record,
            seed=options.seed,
            device_name=options.device,
            workers=options.workers,
            force=options.force,
        )

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

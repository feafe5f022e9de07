"""Flags of stage pretrain; the work is in pretrain/teacher.py and pretrain/adopt.py."""

import sys

from guard import cli, ending, torchrun

DESCRIPTION = """Trains a teacher, or makes one of a state_dict at hand.

reads   ROOT/DATASET/{train,val}
writes  OUTPUT/checkpoint.pt    weights, settings, normalization, class names, accuracy, curvature
        OUTPUT/log.json         the record"""

READ_WITH_WEIGHTS = ("model", "image_size", "stem", "val_images", "curvature_images")


def main(argv):
    parser = cli.stage_parser("pretrain", DESCRIPTION, "pretrain", argv=argv)
    cli.add_data(parser)
    cli.add_workers(parser)
    cli.add_files(parser, output="folder of the teacher")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help=(
            "make the teacher of this state_dict of --model instead of training one; or of torchvision's"
            " weights of that name, such as IMAGENET1K_V1"
        ),
    )
    cli.add_normalization(parser)
    options = parser.parse_args(argv)
    if not options.weights and (options.mean or options.std):
        parser.error("--mean and --std go with --weights; a teacher that is trained here has the recipe's")
    settings = cli.resolve(options, options.dataset, "pretrain")
    if settings.adversarial == "n" and settings.epsilon > 1:  # with f it may be run.sh's -h, as published
        parser.error(
            f"--epsilon is in [0,1] pixels, and {settings.epsilon:g} is more than all of them; perhaps"
            f" {settings.epsilon:g}/255 is meant"
        )
    if options.check:
        return

    data = {"dataset": options.dataset, "root": options.root, "workers": options.workers}
    if settings.adversarial == "f" and settings.epsilon > 1 and torchrun.is_first():
        told = (
            f"note: --epsilon {settings.epsilon:g} (-h of run.sh): the ten sign steps may change each pixel"
            " into any other, as in the published code; 2/255 is a bound"
        )
        print(told, file=sys.stderr, flush=True)

    def work():
        if options.weights:
            from pretrain.adopt import adopt

            cli.tell_unread(parser, options, "pretrain", settings, "with --weights", READ_WITH_WEIGHTS)
            normalized = {"mean": options.mean, "std": options.std}
            adopt(settings, weights=options.weights, **normalized, **data, **cli.run_of(options))
        else:
            from pretrain import teacher

            cli.tell_unread(parser, options, "pretrain", settings, "in training this teacher")
            teacher.pretrain(settings, **data, **cli.run_of(options))

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

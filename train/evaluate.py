"""Flags of the evaluation of any network; the work is in train/evaluation.py."""

import sys
from pathlib import Path

from guard import cli, ending

DESCRIPTION = """Measures the clean and robust accuracy of a network.

reads   CHECKPOINT, or WEIGHTS of a known architecture, and ROOT/DATASET/val
writes  RECORD                  the record, with what each attack found; an interrupted evaluation
                                goes on after its last attack
        with several --epsilon: curve.json and curve.png beside RECORD, accuracy under PGD100 against
        epsilon"""


def _parser(argv):
    parser = cli.stage_parser("train.evaluate", DESCRIPTION, "evaluate", argv=argv)
    cli.add_data(parser)
    cli.add_workers(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", metavar="FILE", help="teacher or student of ours")
    what.add_argument(
        "--weights",
        metavar="FILE",
        help="plain state_dict of --model; or torchvision's weights of that name, such as IMAGENET1K_V1",
    )
    parser.add_argument("--model", metavar="NAME", help="with --weights: its architecture")
    parser.add_argument(
        "--image-size",
        type=cli.number(int, low=8),
        metavar="N",
        help="with --weights: side of its images, pixels [the recipe's]",
    )
    parser.add_argument(
        "--stem", metavar="NAME", help="with --weights: first layers of a ResNet [the recipe's]"
    )
    cli.add_normalization(parser)
    return parser


def main(argv):
    parser = _parser(argv)
    options = parser.parse_args(argv)
    if options.weights and not options.model:
        parser.error("--weights needs --model, the architecture that they are of")
    if options.weights and not options.record and not Path(options.weights).is_file():
        parser.error(
            f"there is no file {options.weights}; torchvision's weights, by name, have no folder for their"
            " record: name one with --record"
        )
    if options.protocol and options.attacks:
        parser.error("--attacks come in place of a --protocol; leave one out")
    if isinstance(options.epsilon, tuple) and (options.attacks or options.protocol):
        parser.error("several --epsilon make a curve, which is of PGD100; leave --attacks and --protocol out")
    of_weights = (options.model, options.image_size, options.stem, options.mean, options.std)
    if options.checkpoint and any(of_weights):
        parser.error(
            "--model, --image-size, --stem, --mean and --std go with --weights; a checkpoint knows its own"
        )
    if options.check:
        return
    settings = cli.resolve(options, options.dataset, "evaluate")
    data = {"dataset": options.dataset, "root": options.root}
    run = {"seed": options.seed, "workers": options.workers, "force": options.force}

    def work():
        from guard.networks import checkpoint
        from guard.report import text
        from guard.run import devices, lock, processes
        from train import evaluation

        log = Path(options.record or Path(options.checkpoint or options.weights).parent / "log.json")
        with lock.held(log.parent), devices.joined(options.device) as device:
            if options.weights:
                network = evaluation.checkpoint_of_weights(
                    options.weights,
                    options.model,
                    image_size=options.image_size,
                    stem=options.stem,
                    mean=options.mean,
                    std=options.std,
                    **data,
                )
            else:
                network = checkpoint.load(options.checkpoint)
            judgement = evaluation.Judgement(settings, **data, **run, device=device)
            if isinstance(settings.epsilon, tuple):
                curve = evaluation.curve_of(network, judgement, log)
                places = f"in {log.parent / 'curve.json'} and {log.parent / 'curve.png'}"
                shown = f"{text.curve_text(curve)}\n{places}"
            else:
                found = evaluation.evaluate_network(network, judgement, log)
                shown = f"{text.evaluation_text({network.role: found})}\nrecord: {log}"
            if processes.rank() == 0:
                print(shown)

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Flags of the judge of distilled sets; the work is in train/judging.py."""

import sys
from pathlib import Path

from guard import cli, earlier, ending, recipes
from guard.settings import as_dict
from train import hard_labels

DESCRIPTION = """Judges distilled images by students on their hard labels: several networks and seeds,
attacked, beside as many random training images where asked for. One table has all of it.

reads   DISTILLED               class folders, a file of tensors (docs/usage.md lists the layouts), or a
                                folder of several of them
        ROOT/DATASET/val        what students are measured on; with --random ROOT/DATASET/train, too
writes  OUTPUT/SET/VIEWS/RUN/   each student with its record and report; an interrupted judgement goes on
        OUTPUT/judge.md, judge.json   the table: accuracies, robustness ratios, DD-Ranking's scores"""


def _parser(argv):
    stages = "train", "evaluate", "relabel"
    refused = {"--model", *hard_labels.OF_SOFT_LABELS}
    parser = cli.stage_parser("train.judge", DESCRIPTION, *stages, argv=argv, hidden=refused)
    cli.add_data(parser)
    cli.add_workers(parser)
    parser.add_argument(
        "--distilled", required=True, nargs="+", metavar="PATH", help="sets, or folders of several"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the judgement")
    parser.add_argument("--networks", metavar="NAMES", help="with commas between them [the recipe's]")
    parser.add_argument(
        "--seeds", type=cli.number(int, low=1), default=1, metavar="N", help="students of each network [1]"
    )
    parser.add_argument(
        "--random", action="store_true", help="beside each set as many random training images"
    )
    parser.add_argument(
        "--unaugmented", action="store_true", help="each student once more, without views and mixing"
    )
    parser.add_argument(
        "--full",
        type=cli.numbers(cli.number(float, low=1, high=100)),  # a share would be below 1
        metavar="X",
        help="accuracy of each network on all training images, percent, for HLR; with commas between them",
    )
    hard_labels.add_flags(parser)
    return parser


WITHOUT_EFFECT = ("evaluate_every", "val_images", "channels_last", "compile", "graphs", "sync_batch_norm")


def _unlike_the_recipe(options, settings):
    """{name: value} of what makes it another judgement than the recipe's, whatever the network."""
    found = {}
    for stage in ("relabel", "train"):
        own = recipes.resolve(options.dataset, stage, {}, options.recipe)
        own = as_dict(own if stage == "relabel" else hard_labels.as_settings(own))
        read = earlier.read_by_stage(stage, as_dict(settings[stage]))
        given = {name: value for name, value in read.items() if value != own[name]}
        found |= {name: value for name, value in given.items() if name not in WITHOUT_EFFECT}
    if "adversarial_share" in found:  # which no recipe has, and no epsilon either
        found["view_epsilon"] = f"{settings['train'].view_epsilon * 255:.4g}/255"
    of_images = hard_labels.of_images(options)
    found |= {name: value for name, value in of_images.items() if value}
    for name, before in (("image_size", {}), ("stem", {"image_size": of_images["image_size"]})):
        own = getattr(recipes.resolve(options.dataset, "pretrain", before), name)
        if found.get(name) == own:
            del found[name]
    if settings["evaluate"].images != recipes.resolve(options.dataset, "evaluate", {}).images:
        found["evaluated images per class"] = settings["evaluate"].images or "all"
    return {name.replace("_", " "): value for name, value in found.items()}


def main(argv):
    parser = _parser(argv)
    options = parser.parse_args(argv)
    if isinstance(options.epsilon, tuple):
        parser.error("--epsilon takes one number here")
    if options.model:
        parser.error("--model is one network; name them with --networks")
    for flag in hard_labels.unread(parser, options):
        parser.error(f"{flag} goes with soft labels, which a judge does not read")
    if options.full and options.soft_labels:
        parser.error("--full is for HLR, which is of hard labels; leave --soft-labels out")
    if options.record:
        parser.error("--record: each student has a record of its own below --output")
    names = [name.strip() for name in options.networks.split(",")] if options.networks else [None]
    if "" in names:
        parser.error(f"--networks {options.networks} has an empty name; leave the comma out")
    if len({*names}) < len(names):
        parser.error(f"--networks {options.networks} names one twice; leave it out")
    if options.full and len(options.full) != len(names):
        parser.error(f"--full needs an accuracy for each network, {len(names)}, and has {len(options.full)}")
    settings = {
        stage: cli.resolve(options, options.dataset, stage) for stage in ("train", "relabel", "evaluate")
    }
    settings["train"] = hard_labels.as_settings(settings["train"])
    hard_labels.check_dsa(parser, settings["train"])
    if options.check:
        return

    def work():
        from guard.run import processes
        from train import judging

        for stage in ("train", "relabel"):
            cli.tell_unread(parser, options, stage, settings[stage], "in training these students")
        networks = [name or settings["train"].model for name in names]
        request = judging.Request(
            paths=options.distilled,
            settings=settings,
            recipe=options.recipe,
            unlike_the_recipe=_unlike_the_recipe(options, settings),
            networks=networks,
            seeds=range(options.seed, options.seed + options.seeds),
            random=options.random,
            unaugmented=options.unaugmented,
            full=dict(zip(networks, options.full or ())),
            of_images=hard_labels.of_images(options),
            dataset=options.dataset,
            root=options.root,
            output=Path(options.output),
            where={"device_name": options.device, "force": options.force},
            workers=options.workers,
        )
        text = judging.judge(request)
        if processes.rank() == 0:
            print(text)

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

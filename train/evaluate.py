"""Evaluation of any checkpoint of ours: clean accuracy, and accuracy under a protocol's attacks."""

import sys
from pathlib import Path

from guard import cli

DESCRIPTION = """Measures the clean and robust accuracy of a teacher or student.

reads   CHECKPOINT, ROOT/DATASET/val
writes  LOG                     the record, with what each attack found; an interrupted evaluation goes on after its last attack"""


def evaluate_checkpoint(path, settings, *, dataset, root, log, seed, where, workers, force):
    """Evaluates the network at `path` by `settings` (recipes.Evaluate); its record is the entry 'evaluate teacher' or 'evaluate
    student' of `log`. Attacks whose results for this very network, data and settings are there already are not run again."""
    from guard import checkpoint, datasets, images, records, robustness
    from guard import device as devices
    from guard.errors import UserError

    network = checkpoint.load(path)
    source = datasets.find(dataset, root, "val")
    if list(source.classes) != list(network.classes):
        raise UserError(f"the classes of {source.path} are not those of {path}; use the data set it was trained on, {network.dataset}")
    entry = f"evaluate {network.role}"
    key = {
        "fingerprint": network.fingerprint, "dataset": dataset, "protocol": settings.protocol, "epsilon": settings.epsilon,
        "images per class": settings.images, "seed": seed,
    }  # fmt: skip
    previous = records.read(log).get(entry, {})
    finished = previous.get("attacks", {}) if previous.get("key") == key and not force else {}

    def save(results):
        if devices.rank() == 0:
            records.update(log, entry, {"key": key, "attacks": results, "complete": False})

    held = images.load(source, network.image_size, settings.images).to(where)
    result = robustness.evaluate(
        network.build(where), held, size=network.image_size, protocol=settings.protocol, epsilon=settings.epsilon, attack_batch=settings.attack_batch,
        seed=seed, workers=workers, where=where, finished=finished, save=save,
    )  # fmt: skip
    if devices.rank() == 0:
        records.update(log, entry, {"key": key, "checkpoint": str(path), **result, "complete": True, "environment": records.environment(where)})
    devices.barrier()
    return result


def main(argv):
    parser = cli.stage_parser("train.evaluate", DESCRIPTION, "evaluate", argv=argv)
    cli.add_data(parser)
    cli.add_workers(parser)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="teacher or student")
    options = parser.parse_args(argv)
    if options.check:
        return

    def work():
        from guard import device as devices
        from guard import report

        with devices.process_group():
            devices.make_deterministic()
            result = evaluate_checkpoint(
                options.checkpoint, cli.resolve(options, options.dataset, "evaluate"), dataset=options.dataset, root=options.root,
                log=options.log or Path(options.checkpoint).parent / "log.json", seed=options.seed, where=devices.select(options.device),
                workers=options.workers, force=options.force,
            )  # fmt: skip
            if devices.rank() == 0:
                print(report.accuracy_table({Path(options.checkpoint).parent.name: result}))

    cli.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Evaluation of any network: clean accuracy, accuracy under a protocol's attacks, accuracy against
epsilon.
"""

import sys
from pathlib import Path

from guard import cli, ending

DESCRIPTION = """Measures the clean and robust accuracy of a network.

reads   CHECKPOINT, or WEIGHTS of a known architecture, and ROOT/DATASET/val
writes  RECORD                  the record, with what each attack found; an interrupted evaluation goes on after its last attack
        with several --epsilon: curve.json and curve.png beside RECORD, accuracy under PGD100 against epsilon"""


def evaluate_network(network, settings, *, dataset, root, log, seed, where, workers, force, shared=False):
    """Evaluates `network` (Checkpoint) by `settings` (settings.Evaluate); its record is the entry
    'evaluate teacher', 'evaluate student' or 'evaluate network' of `log`. Attacks whose results for this
    very network, data and settings are there already are not run again. shared: others may evaluate it,
    too; who comes later waits and takes over what is there. Raises UserError for data with other
    classes.
    """
    from guard.attacks import robustness
    from guard.run import lock, processes, records

    source, held = _validation_images(network, settings, dataset, root, where)
    entry = f"evaluate {network.role}"
    key = {
        "fingerprint": network.fingerprint,
        "dataset": dataset,
        "data": source.fingerprint,
        "epsilon": settings.epsilon,
        "images per class": settings.images,
        "seed": seed,
    }
    protocols = ("paper", "standard") if settings.protocol == "both" else (settings.protocol,)

    def recorded():
        """(what is there of this evaluation, whether that is all of it)"""
        found = records.read(log).get(entry, {})
        found = found if found.get("key") == key and not force else {}
        return found, bool(found.get("complete")) and set(robustness.attacks_of(protocols)) <= set(
            found["attacks"]
        )

    def save(results):
        if processes.rank() == 0:
            records.update(log, entry, {"key": key, "attacks": results, "complete": False})

    result, complete = processes.of_the_first(recorded())
    if complete:
        if shared:
            lock.tidy(Path(log).parent)
        return result
    with lock.held(*([Path(log).parent] if shared else []), wait=True):
        begun, complete = processes.of_the_first(recorded())
        if complete:
            return begun
        result = robustness.evaluate(
            network.build(where),
            held,
            size=network.image_size,
            protocols=protocols,
            epsilon=settings.epsilon,
            attack_batch=settings.attack_batch,
            seed=seed,
            workers=workers,
            device=where,
            finished=begun.get("attacks"),
            save=save,
        )
        if processes.rank() == 0:
            records.update(
                log,
                entry,
                {"key": key, **result, "complete": True, "environment": records.environment(where)},
            )
        processes.barrier()
    return result


def curve_of(network, settings, *, dataset, root, log, seed, where, workers, force):
    """Writes curve.json and curve.png beside `log`: accuracy under PGD100 against settings.epsilon, a
    tuple; returns the curve. An interrupted one goes on after its last epsilon.
    """
    from guard.attacks import robustness
    from guard.report import pictures
    from guard.run import processes, records, storage

    source, held = _validation_images(network, settings, dataset, root, where)
    path = Path(log).parent / "curve.json"
    key = {
        "fingerprint": network.fingerprint,
        "data": source.fingerprint,
        "epsilon": list(settings.epsilon),
        "images per class": settings.images,
        "seed": seed,
    }
    begun = processes.of_the_first(storage.read_sealed(path, "curve") if path.exists() and not force else {})
    begun = begun if begun.get("key") == key else {}
    if "accuracy" in begun:
        return begun
    storage.check_writable(path)

    def save(broken):
        if processes.rank() == 0:
            storage.write_sealed({"key": key, "broken": broken}, path)

    found = robustness.curve(
        network.build(where),
        held,
        settings.epsilon,
        attack="pgd100",
        size=network.image_size,
        attack_batch=settings.attack_batch,
        seed=seed,
        workers=workers,
        device=where,
        finished=begun.get("broken"),
        save=save,
    )
    if processes.rank() == 0:
        record = {
            "key": key,
            **found,
            "network": network.fingerprint,
            "images": len(held),
            "seed": seed,
            "environment": records.environment(where),
        }
        pictures.epsilon_curve(found, Path(log).parent / "curve.png")
        storage.write_sealed(record, path)  # last: what is finished is not begun again
    processes.barrier()
    return found


def _validation_images(network, settings, dataset, root, where):
    from guard.data import find, images
    from guard.errors import UserError

    source = find.find(dataset, root, "val")
    if list(source.classes) != list(network.classes):
        raise UserError(
            f"the classes of {source.path} are not those of the network; use the data set it was trained on,"
            f" {network.dataset}"
        )
    return source, images.load(source, network.image_size, settings.images).to(where)


def adopted(weights, model, dataset, root, image_size, stem):
    """A Checkpoint, role 'network', of a plain state_dict; what is None comes from the data set's recipe."""
    from guard import recipes
    from guard.data import find
    from guard.networks import checkpoint, models
    from guard.networks.weights import load_weights

    recipe = recipes.recipe(dataset)
    size, stem = image_size or recipe.pretrain.image_size, stem or recipe.pretrain.stem
    classes = find.find(dataset, root, "val").classes
    made = models.build(
        model, classes=len(classes), image_size=size, stem=stem, mean=recipe.mean, std=recipe.std
    )
    load_weights(made.network, weights, model)
    return checkpoint.Checkpoint(
        role="network",
        dataset=dataset,
        model=model,
        stem=stem,
        image_size=size,
        mean=list(recipe.mean),
        std=list(recipe.std),
        classes=list(classes),
        seed=0,
        settings={"weights": weights},
        state=checkpoint.cpu_state(made.network),
    )


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
        type=int,
        metavar="N",
        help="with --weights: side of its images, pixels [the recipe's]",
    )
    parser.add_argument(
        "--stem", metavar="NAME", help="with --weights: first layers of a ResNet [the recipe's]"
    )
    return parser


def main(argv):
    parser = _parser(argv)
    options = parser.parse_args(argv)
    if options.weights and not options.model:
        parser.error("--weights needs --model, the architecture that they are of")
    if options.checkpoint and (options.model or options.image_size or options.stem):
        parser.error("--model, --image-size and --stem go with --weights; a checkpoint knows its own")
    if options.check:
        return
    settings = cli.resolve(options, options.dataset, "evaluate")

    def work():
        from guard.networks import checkpoint
        from guard.report import text
        from guard.run import devices, lock, processes

        log = Path(options.record or Path(options.checkpoint or options.weights).parent / "log.json")
        with lock.held(log.parent), devices.joined(options.device) as where:
            if options.weights:
                network = adopted(
                    options.weights,
                    options.model,
                    options.dataset,
                    options.root,
                    options.image_size,
                    options.stem,
                )
            else:
                network = checkpoint.load(options.checkpoint)
            data = {
                "dataset": options.dataset,
                "root": options.root,
                "log": log,
                "seed": options.seed,
                "where": where,
                "workers": options.workers,
            }
            if isinstance(settings.epsilon, tuple):
                shown = (
                    text.curve_text(curve_of(network, settings, force=options.force, **data))
                    + f"\nin {log.parent / 'curve.json'} and {log.parent / 'curve.png'}"
                )
            else:
                shown = text.evaluation_text(
                    {network.role: evaluate_network(network, settings, force=options.force, **data)}
                )
            if processes.rank() == 0:
                print(shown)

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])

"""A teacher of weights that were trained elsewhere."""

import sys
from pathlib import Path

from guard import recipes
from guard.data import find, images
from guard.networks.training import Training
from guard.networks.weights import load_weights
from guard.report.statistics import standard_error
from guard.run import fingerprints
from guard.run.stage import Stage
from pretrain.teacher import Data, build, finish

ERRORS = 2  # standard errors above the accuracy of guessing, up to which weights are no better than that


def adopt(settings, *, weights, mean, std, dataset, root, output, log, seed, device_name, workers, force):
    """Makes a teacher's checkpoint of existing weights; nothing is trained.

    weights: a file with a plain state_dict of settings.model, or the name of torchvision's own weights. mean,
    std: of the three channels, by which its pixels were normalized; None for the recipe's. The accuracy on
    val is measured and stored, and one near chance is told.
    """
    origin = fingerprints.of_file(weights) if Path(weights).is_file() else weights
    architecture = {"model": settings.model, "image_size": settings.image_size, "stem": settings.stem}
    own = recipes.recipe(dataset)
    named = {"mean": (mean, own.mean), "std": (std, own.std)}
    given = {name: list(value) for name, (value, usual) in named.items() if value and value != usual}
    told = {"val_images": settings.val_images, "curvature_images": settings.curvature_images}
    key = {"dataset": dataset, "weights": origin, **architecture, **given, **told}
    work = Stage("pretrain", output, log=log, force=force, shared=True)
    with work.entered(device_name) as device:
        training = Training(work.output / "checkpoint.pt", "teacher")
        source = find.find(dataset, root, "val")
        earlier = work.earlier_settings(training)
        if not earlier or "data" in earlier:  # an earlier version did not note it
            key["data"] = source.fingerprint
        model = build(settings, dataset, source.classes, mean, std)
        load_weights(model.network, weights, settings.model)
        if work.finished_or_begin(training, key):
            return
        val = images.load(source, settings.image_size, settings.val_images).to(device)
        data = Data(dataset, val, val, workers, device)  # the training images are not used
        results = finish(work, settings, model.to(device).eval(), data, key, seed, history=[])
        chance = 100 / len(source.classes)
        if results.get("val accuracy", 100.0) <= chance + ERRORS * standard_error(chance, len(val)):
            print(
                f"note: {weights} is right on no more images than guessing would be; its pixels may have been"
                " normalized otherwise (--mean, --std), or its classes stand in another order",
                file=sys.stderr,
                flush=True,
            )

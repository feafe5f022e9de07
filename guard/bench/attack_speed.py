"""Speed and strength of the attacks against torchattacks, alternating in one run.

The references are test-only dependencies: pip install --no-deps torchattacks==3.5.1 pyautoattack==0.2.0
(the first wants scipy and requests as well).
"""

import dataclasses
import time
from statistics import median

from guard.errors import UserError
from guard.recipes import recipe

# attack -> how the reference is built: class, settings; of a sequence, several that each go on where the
# one before ended
REFERENCES = {
    "fgsm": [("FGSM", {})],
    "pgd100": [("PGD", {"alpha": 0.25, "steps": 100})],
    "mim": [("MIFGSM", {"alpha": 1.0, "steps": 20, "decay": 1.0})],
    "cw": [("CW", {"c": 1e-4, "kappa": 0, "steps": 50, "lr": 0.01})],
    "square": [("Square", {"n_queries": 5000, "seed": 0})],
    "apgd-ce": [("APGD", {"steps": 100, "seed": 0})],
    "apgd-dlr": [("APGDT", {"steps": 100, "seed": 0, "n_classes": 10})],
    "fab": [("FAB", {"steps": 100, "seed": 0, "n_classes": 10, "multi_targeted": True})],
    "autoattack-paper": [("AutoAttack", {"seed": 0, "n_classes": 10})],
}
STRENGTH = {  # the parts of both AutoAttacks, from which these follow
    **{name: settings for name, settings in REFERENCES.items() if name != "autoattack-paper"},
    "apgd-ce-10": [("APGD", {"steps": 10, "seed": 0})],
    "apgd-dlr-10": [("APGDT", {"steps": 10, "seed": 0, "n_classes": 10})],
    "fab-10": [("FAB", {"steps": 10, "seed": 0, "n_classes": 10, "multi_targeted": True})],
}
REFERENCES["autoattack"] = [
    *REFERENCES["apgd-ce"],
    *REFERENCES["apgd-dlr"],
    *REFERENCES["fab"],
    *REFERENCES["square"],
]
OFFICIAL = "autoattack-official"  # our autoattack against its authors' implementation
OURS = {OFFICIAL: "autoattack"}
TARGETS = {
    OFFICIAL: 3.0,
    "pgd100": 1.5,
    "square": 2.0,
    "autoattack": 3.0,
}  # how many times as fast as the reference ours are meant to be


def _pyautoattack():
    try:
        import pyautoattack
    except ImportError as problem:
        raise UserError(
            f"pyautoattack cannot be imported ({problem}); pip install --no-deps pyautoattack==0.2.0"
        ) from None
    return pyautoattack


def _torchattacks():
    try:
        import torchattacks
    except ImportError as problem:
        raise UserError(
            f"torchattacks cannot be imported ({problem}); pip install --no-deps torchattacks==3.5.1, and"
            " scipy and requests, which it wants"
        ) from None
    return torchattacks


def check_references(names):
    """Raises UserError where a reference of these attacks is not installed."""
    for name in names:
        _pyautoattack() if name == OFFICIAL else _torchattacks()


def official_autoattack(model, images, labels, epsilon):
    """(N,) bool: broken by AutoAttack's authors' own implementation, version standard."""
    import torch

    attack = _pyautoattack().AutoAttack(
        model, norm="Linf", eps=epsilon, version="standard", seed=0, device=str(images.device)
    )
    found, _ = attack.run_standard_evaluation(images, labels, batch_size=250)
    with torch.no_grad():
        return model(found).argmax(1) != labels


def reference_attack(name, model, images, labels, epsilon):
    """(N,) bool: broken by torchattacks' version of attack `name`; the last iterates are judged, as that
    library does.
    """
    if name == OFFICIAL:
        return official_autoattack(model, images, labels, epsilon)
    torchattacks = _torchattacks()
    import torch

    with torch.no_grad():
        broken = (
            model(images).argmax(1) != labels
        )  # as ours does, an image that is wrong anyway is not attacked
    for kind, settings in {**STRENGTH, **REFERENCES}[name]:
        standing = (~broken).nonzero().squeeze(1)
        if not len(standing):
            break
        settings = {key: value * epsilon if key == "alpha" else value for key, value in settings.items()}
        ball = {} if kind == "CW" else {"eps": epsilon}
        found = getattr(torchattacks, kind)(model, **ball, **settings)(images[standing], labels[standing])
        with torch.no_grad():
            fell = model(found).argmax(1) != labels[standing]
        if ball:  # FAB also returns what lies outside of the ball
            fell &= (found - images[standing]).abs().amax((1, 2, 3)) <= epsilon + 1e-6
        broken[standing] = fell
    return broken


def compare(name, model, images, labels, epsilon, repeats=1):
    """Robust accuracy (percent) and median seconds of ours and of the reference, timed alternately."""
    from guard import attacks
    from guard.bench import measure

    sides = {
        "ours": lambda: attacks.run(OURS.get(name, name), model, images, labels, epsilon=epsilon)[1],
        "reference": lambda: reference_attack(name, model, images, labels, epsilon),
    }
    seconds, broken = {side: [] for side in sides}, {}
    for _ in range(repeats):
        for side, attack in sides.items():
            measure.synchronize(images.device)
            started = time.perf_counter()
            broken[side] = attack()
            measure.synchronize(images.device)
            seconds[side].append(time.perf_counter() - started)
    row = {"attack": name, "epsilon": epsilon, "images": len(images), "repeats": repeats}
    for side in sides:
        row |= {
            f"{side} accuracy": 100 * (~broken[side]).double().mean().item(),
            f"{side} seconds": median(seconds[side]),
        }
    return {**row, "times as fast": row["reference seconds"] / row["ours seconds"]}


def small_networks(epochs=8, seed=0, names=("plain", "GUARD")):
    """{name: a ConvNet trained on the embedded digits for a few seconds, in eval mode}, plain or by GUARD."""
    plain = dataclasses.replace(recipe("digits").pretrain, lambda_=10.0)
    guard = dataclasses.replace(plain, curvature=True, regularizer="gradient-norm")
    settings = {"plain": plain, "GUARD": guard}
    return {name: _trained(settings[name], epochs, seed) for name in names}


def _trained(settings, epochs, seed):
    """A network trained on the digits by `settings` (settings.Pretrain), in eval mode."""
    import torch

    from guard.bench import units
    from guard.data import find, images, loading
    from guard.run import seeds
    from pretrain.teacher import teacher_loss

    size, batch_size, device = settings.image_size, settings.batch_size, torch.device("cpu")
    train = images.load(find.find("digits", ".", "train"), size)
    seeds.seed_everything(seed, "bench")
    model = units.network("digits", settings.model, size, settings.stem, 10, device, seed=None).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    for epoch in range(epochs):
        views = {"augmentation": "shift", "batch_size": batch_size, "size": size}
        passes = loading.TrainingEpoch(train, **views, seed=seed, epoch=epoch)
        for pixels, labels in loading.batches(passes, 0, device):
            given = {"batch_size": len(labels), "step": 0, "draws": None}
            loss, _ = teacher_loss(settings, model, pixels, labels, **given)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def digits_images(count):
    """`count` images of the digits, validation first, as (pixels in [0,1], labels)."""
    import torch

    from guard.data import find, images

    size = recipe("digits").pretrain.image_size
    held = [images.load(find.find("digits", ".", split), size) for split in ("val", "train")]
    pixels = torch.cat([each.validation(torch.arange(len(each)), size) for each in held])
    return pixels[:count], torch.cat([each.labels for each in held])[:count]


def halving_epsilon(model, images, labels):
    """The epsilon, in steps of 1/255, at which PGD leaves the accuracy nearest to one half."""
    from guard import attacks

    def distance(epsilon):
        return abs(
            (~attacks.run("pgd20", model, images, labels, epsilon=epsilon)[1]).double().mean().item() - 0.5
        )

    return min((step / 255 for step in range(2, 25, 2)), key=distance)


def speeds(names, count, repeats, device):
    """Yields a row per attack on `count` digits and the plain network, at the epsilon that breaks half
    of the images.
    """
    model = small_networks(names=["plain"])["plain"].to(device)
    images, labels = (each.to(device) for each in digits_images(count))
    epsilon = halving_epsilon(model, images, labels)
    for name in names:
        yield {**compare(name, model, images, labels, epsilon, repeats), "target": TARGETS.get(name)}


def strengths(names, count, networks, device):
    """Yields a row per network, epsilon and attack: robust accuracies of ours and the reference's on
    `count` digits.
    """
    images, labels = (each.to(device) for each in digits_images(count))
    made = small_networks(names=networks)
    for network in networks:
        for epsilon in (8 / 255, 4 / 255, 1 / 255):
            for row in strength(names, made[network].to(device), images, labels, epsilon):
                yield {"network": network, **row}


def strength(names, model, images, labels, epsilon):
    """A row per attack: robust accuracy of ours and of the reference. A sequence whose parts were all
    run is not run again: it breaks what any of them does, with ours since their draws are their own,
    with the reference since it is given all images there.
    """
    from guard import attacks

    broken = {}
    for name in names:
        parts = () if name == OFFICIAL else attacks.ATTACKS[name].parts
        if parts and set(parts) <= set(broken):
            broken[name] = [sum(broken[part][side] for part in parts).bool() for side in (0, 1)]
        else:
            broken[name] = [
                attacks.run(OURS.get(name, name), model, images, labels, epsilon=epsilon)[1].int(),
                reference_attack(name, model, images, labels, epsilon).int(),
            ]
        ours, theirs = (100 * (1 - each.double().mean().item()) for each in broken[name])
        yield {
            "attack": name,
            "epsilon": epsilon,
            "images": len(images),
            "ours accuracy": ours,
            "reference accuracy": theirs,
        }

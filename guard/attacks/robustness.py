"""Clean and robust accuracy of a model over a data set, by named protocols, and the checks that the
measurement makes of itself.
"""

import functools
import time

import torch
import torch.nn.functional as F

from guard import attacks
from guard.data.augment import as_float
from guard.data.loading import ValidationBatches, batches
from guard.networks import memory
from guard.networks.models import frozen_eval
from guard.run import processes
from guard.run.progress import Progress

MOST_IMAGES = 512  # that an attack works on at a time
CHUNK = 4  # attack batches that are held in memory at a time
TOLERANCE = 1e-6  # of float32 when a perturbation is compared with epsilon

MISSED = "PGD found what AutoAttack missed, so gradients are masked or the model is random"
TOO_SHORT = "PGD found what AutoAttack's ten steps missed, so these are too few here: trust protocol standard"
BLACK_BOX = (
    "a black-box attack beats a white-box one, so the gradients mislead: they vanish, or something in the"
    " model hides them"
)
ATTACKED_NOTHING = "an attack cannot repair images, so its images were exchanged"
# (attack that has to be at least as strong, weaker one, what it means when it is not)
ORDER = (
    ("autoattack", "pgd100", MISSED),
    ("autoattack-paper", "pgd100", TOO_SHORT),
    ("autoattack", "square", BLACK_BOX),
    ("autoattack-paper", "square", BLACK_BOX),
    ("pgd100", "square", BLACK_BOX),
    ("pgd100", "clean", ATTACKED_NOTHING),
    ("square", "clean", ATTACKED_NOTHING),
    ("mim", "clean", ATTACKED_NOTHING),
    ("cw", "clean", ATTACKED_NOTHING),
)


@torch.no_grad()
def accuracy(model, held, size, *, workers, device, batch_size=256):
    """Percent of images that `model`, in eval mode, gets right in the validation view of `size` pixels;
    then back to its mode.
    """
    training = model.training
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    views = ValidationBatches(held, batch_size=batch_size, size=size)
    for pixels, labels in batches(views, workers, device):
        right += (model(pixels).argmax(1) == labels).sum()
    model.train(training)
    return 100 * right.item() / len(held)


def protocol_name(protocol, epsilon):
    """The protocol's name, or 'custom (...)' where a number of it is not its own."""
    if abs(epsilon - attacks.PROTOCOL_EPSILON) < 1e-9:
        return protocol
    return f"custom ({protocol} at epsilon {epsilon * 255:.4g}/255)"


def attacks_of(protocols):
    """The attacks of several protocols, each once, in their order."""
    return list(dict.fromkeys(name for protocol in protocols for name in attacks.PROTOCOLS[protocol]))


def evaluate(
    model, images, *, size, protocols, epsilon, attack_batch, seed, workers, device, finished=None, save=None
):
    """Accuracy (percent) of `model` (in eval mode, on `device`) on `images` in the validation view, clean
    and under each attack.

    images: guard.data.images.Packed or Streamed. protocols: names of attacks.PROTOCOLS. finished: results of
    attacks that need not be run again; save(results) is called after each attack. Returns a dict:
    protocols, epsilon, images, seed, attacks (name -> accuracy, largest change of a pixel, seconds,
    numbers of the broken images), worst_case (of protocol standard), warnings. An image that is
    misclassified clean is not robust; an image is broken by the first iterate that fools the model. A
    sequence of attacks takes over what is known of its parts: an attack's draws are its own, so it finds
    the same alone and as a part.
    """
    names = attacks_of(protocols)
    results = dict(finished or {})
    for name in ["clean", *names]:
        if name not in results:
            results[name] = _attack_all(
                name,
                model,
                images,
                size,
                epsilon,
                attack_batch,
                seed,
                workers,
                device,
                *_known(name, results, len(images)),
            )
            if save:
                save(results)
    results = {name: results[name] for name in ("clean", *attacks.ATTACKS) if name in results}
    accuracies = {name: result["accuracy"] for name, result in results.items()}
    covered = [name for name in attacks.PROTOCOLS if set(attacks.PROTOCOLS[name]) <= set(results)]
    return {
        "protocols": [protocol_name(protocol, epsilon) for protocol in covered],
        "epsilon": epsilon,
        "images": len(images),
        "seed": seed,
        "attacks": results,
        "worst_case": _worst_case(results, len(images)) if "standard" in covered else None,
        "warnings": [*check_model(model, images, size, device), *check_results(accuracies, results, epsilon)],
    }


def _worst_case(results, count):
    """Percent of images that survive clean and every attack of protocol standard."""
    fallen = set().union(*(results[name]["broken"] for name in ("clean", *attacks.PROTOCOLS["standard"])))
    return 100 * (1 - len(fallen) / count)


def _known(name, results, count):
    """((N,) bool, names): the images that parts of a sequence are known to break, and these parts."""
    known = torch.zeros(count, dtype=torch.bool)
    done = [part for part in attacks.ATTACKS[name].parts if part in results] if name != "clean" else []
    for part in done:
        known[results[part]["broken"]] = True
    return known, done


def _attack(name, model, pixels, labels, epsilon, seed, indices, known, done, attack_batch):
    return attacks.run(
        name,
        model,
        pixels,
        labels,
        epsilon=epsilon,
        seed=seed,
        indices=indices,
        batch_size=attack_batch,
        known=known,
        done=done,
    )


def _attack_all(name, model, images, size, epsilon, attack_batch, seed, workers, device, known, done=()):
    attack_batch = attack_batch or memory.images_that_fit(model, size, device, most=MOST_IMAGES)
    chunks = ValidationBatches(images, batch_size=CHUNK * attack_batch, size=size)
    broken = torch.zeros(len(images), dtype=torch.int64, device=device)
    extremes = torch.zeros(3, device=device)  # largest change, largest excursion out of [0,1], NaNs
    started, begin = time.time(), 0
    with Progress(f"attack {name}", len(images), "image") as progress:
        for number, (pixels, labels) in enumerate(batches(chunks, workers, device)):
            indices = torch.arange(begin, begin + len(labels), device=device)
            begin += len(labels)
            if number % processes.world_size() == processes.rank():
                if name == "clean":
                    found, fell = pixels, attacks.wrong(model, pixels, labels, attack_batch)
                else:
                    compute = functools.partial(
                        _attack,
                        name,
                        model,
                        pixels,
                        labels,
                        epsilon,
                        seed,
                        indices,
                        known[indices.cpu()],
                        done,
                    )
                    found, fell = memory.halved_when_full(compute, attack_batch, "images")
                broken[indices] = fell.long()
                extremes = torch.maximum(extremes, _extremes(found, pixels))
            progress.step(len(labels), accuracy=100 * (1 - broken[:begin].double().mean()))
    processes.sum_over_processes(broken)
    extremes = processes.maximum_over_processes(extremes).tolist()
    accuracy, seconds = 100 * (1 - broken.double().mean().item()), time.time() - started
    progress.line(f"accuracy {accuracy:.2f} % of {len(images)} images, {seconds:.1f} s")
    return {
        "accuracy": accuracy,
        "largest_change": extremes[0],
        "out_of_range": extremes[1],
        "not_a_number": bool(extremes[2]),
        "seconds": seconds,
        "broken": broken.nonzero().squeeze(1).tolist(),
    }


def _extremes(found, pixels):
    return torch.stack(
        [
            (found - pixels).abs().max(),
            (-found).amax().maximum(found.amax() - 1).clamp(min=0),
            found.isnan().any().to(found.dtype),
        ]
    )


# ---- checks --------------------------------------------------------------------------------------


def check_model(model, images, size, device, count=64):
    """One sentence for each property of the model, seen on a few images, with which an attack's number
    means little.
    """
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    pixels, labels = as_float(images.validation(chosen, size)).to(device), images.labels[chosen].to(device)
    found = []
    with frozen_eval(model):
        pixels.requires_grad_()
        logits = model(pixels)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), pixels)
        with torch.no_grad():
            again = model(pixels)
    vanished = (gradient.flatten(1) == 0).all(1).double().mean().item()
    if vanished:
        found.append(
            f"the gradient is zero on {100 * vanished:.0f} % of the images: attacks that follow it find"
            " nothing there, usually since the loss saturates"
        )
    probabilities = logits.detach()
    if probabilities.min() >= 0 and ((probabilities.sum(1) - 1).abs() < 1e-4).all():
        found.append(
            "the outputs are probabilities already: attacks need logits, a softmax in the model usually makes"
            " gradients vanish"
        )
    if not torch.equal(logits.detach(), again):
        found.append(
            "two calls give different outputs: the model is random, and attacks without averaging over its"
            " randomness overrate it"
        )
    return found


def check_results(accuracies, results, epsilon):
    """One sentence for each check that fails: changes within epsilon, pixels in [0,1], no NaN, and the
    order that attacks must have.
    """
    found = []
    for name, result in results.items():
        bounded = name in attacks.ATTACKS and attacks.ATTACKS[name].norm == "L-inf"
        if bounded and result["largest_change"] > epsilon + TOLERANCE:
            found.append(
                f"{name} changed a pixel by {result['largest_change']:.6f}, more than epsilon {epsilon:.6f}:"
                " do not use its number"
            )
        if result["out_of_range"] > TOLERANCE or result["not_a_number"]:
            found.append(f"{name} left the valid pixels: do not use its number")
    for stronger, weaker, meaning in ORDER:
        if (
            stronger in accuracies
            and weaker in accuracies
            and accuracies[stronger] > accuracies[weaker] + 1e-9
        ):
            found.append(
                f"{stronger} {accuracies[stronger]:.2f} is above {weaker} {accuracies[weaker]:.2f}: {meaning}"
            )
    return found


def curve(model, images, epsilons, *, attack, finished=None, save=None, **settings):
    """Accuracy under `attack` against epsilon, for the sorted `epsilons`; settings as of `evaluate`,
    less protocols and epsilon.

    finished: numbers of the images broken at epsilons that need not be run again, by the text of
    epsilon; save(of all so far) is called after each.

    Images that fall at an epsilon count as fallen at every larger one, whose ball holds the smaller.
    Returns {'attack', 'epsilon', 'accuracy', 'reaches_zero'}: at the largest epsilon no more than 1 %
    may survive, else the attack or the gradients are broken.
    """
    fallen, accuracies, found = torch.zeros(len(images), dtype=torch.bool), [], dict(finished or {})
    for epsilon in sorted(epsilons):
        name = attack if epsilon else "clean"
        if str(epsilon) not in found:
            found[str(epsilon)] = _attack_all(
                name,
                model,
                images,
                settings["size"],
                epsilon,
                settings["attack_batch"],
                settings["seed"],
                settings["workers"],
                settings["device"],
                fallen,
            )["broken"]
            if save:
                save(found)
        fallen[found[str(epsilon)]] = True
        accuracies.append(100 * (1 - fallen.double().mean().item()))
    return {
        "attack": attack,
        "epsilon": sorted(epsilons),
        "accuracy": accuracies,
        "reaches_zero": accuracies[-1] <= 1.0,
    }

"""Clean and robust accuracy of a model over a data set, by named protocols."""

import dataclasses
import functools
import time

import torch

from guard import attacks
from guard.attacks.checks import check_model, check_results
from guard.data.loading import ValidationBatches, batches
from guard.errors import UserError
from guard.networks import memory
from guard.run import devices, processes
from guard.run.progress import Progress

MOST_IMAGES = 512  # that an attack works on at a time
CHUNK = 4  # mini-batches of an attack that are held in memory at a time
LONG = 60.0  # seconds from which on a part of a sequence has a line of its own


@torch.no_grad()
def accuracy(model, held, size, precision="fp32", *, workers, device, batch_size=256):
    """Percent of the images that `model` gets right, in eval mode, after which it is in its mode again.

    held: Packed, Mapped or Streamed of guard.data.images, seen in the validation view of `size` pixels.
    precision: 'fp32' for a number that is reported; how a training goes is measured in its own, in less time.
    workers: processes that decode files.
    """
    training = model.training
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    views = ValidationBatches(held, batch_size=batch_size, size=size)
    with devices.computing(precision, device):
        for pixels, labels in batches(views, workers, device):
            right += (model(pixels).argmax(1) == labels).sum()
    model.train(training)
    return 100 * right.item() / len(held)


def on_val(percent, per_class):
    """'93.10 % on val', as `accuracy` found it. per_class: of its first N images of each class; 0 for all."""
    part = f", the first {per_class} of each class" if per_class else ""
    return f"{percent:.2f} % on val{part}"


def protocol_name(protocol, epsilon):
    """The protocol's name, or 'custom (...)' where a number of it is not its own."""
    if abs(epsilon - attacks.PROTOCOL_EPSILON) < 1e-9:
        return protocol
    return f"custom ({protocol} at epsilon {epsilon * 255:.4g}/255)"


def attacks_of(protocols):
    """The attacks of several protocols, each once, in their order."""
    names = [name for protocol in protocols for name in attacks.PROTOCOLS[protocol]]
    return list(dict.fromkeys(names))


def names_of(settings):
    """The attacks that settings.Evaluate list, or those of its protocol."""
    if settings.attacks:
        return settings.attacks.split(",")
    return attacks_of(("paper", "standard") if settings.protocol == "both" else (settings.protocol,))


@dataclasses.dataclass(frozen=True)
class _Measurement:
    """What is attacked and how, whatever the attack.

    model: in eval mode, on `device`. images: Packed, Mapped or Streamed of guard.data.images. size: of their
    validation view, in pixels, or (height, width) of images that have one view alone. epsilon: in [0,1]
    pixels. attack_batch: images that an attack works on at a time, 0 for as many as fit. workers: processes
    that decode files.
    """

    model: torch.nn.Module
    images: object
    size: int | tuple
    epsilon: float
    attack_batch: int
    seed: int
    workers: int
    device: torch.device

    def attack(self, name, pixels, labels, indices, known, batch_size):
        """(adversarial, broken) of one chunk of the images, as `attacks.run` returns them."""
        if name == "clean":
            return pixels, attacks.wrong(self.model, pixels, labels, batch_size)
        run = functools.partial(
            attacks.run,
            name,
            self.model,
            pixels,
            labels,
            epsilon=self.epsilon,
            seed=self.seed,
            indices=indices,
            known=known,
        )
        return memory.halved_when_full(lambda count: run(batch_size=count), batch_size, "images")


def check_names(names):
    """`names`, all of which have to be attacks. Raises UserError for one that is none."""
    for name in names:
        if name not in attacks.ATTACKS:
            raise UserError(f"there is no attack '{name}'; there are {', '.join(attacks.ATTACKS)}")
    return names


def evaluate(
    model, images, *, size, names, epsilon, attack_batch, seed, workers, device, finished=None, save=None
):
    """Accuracy (percent) of `model` on `images`, clean and under each of the attacks.

    model: in eval mode, on `device`. images: Packed, Mapped or Streamed of guard.data.images, seen in the
    validation view of `size` pixels. names: of the attacks. attack_batch: images that an
    attack works on at a time, 0 for as many as fit. finished: results of attacks, and of parts of a sequence
    that was stopped, which need not be run again; save(results) is called after each of them.

    Returns a dict: protocols, epsilon, images, seed, attacks (name -> accuracy, largest change of a pixel,
    seconds, numbers of the broken images), worst_case (of protocol standard), warnings. An image that is
    misclassified clean is not robust, and an image is broken by the first iterate that fools the model. A
    sequence of attacks takes over what is known of its parts: an attack's draws are its own, so it finds the
    same alone and as a part.
    """
    measurement = _Measurement(model, images, size, epsilon, attack_batch, seed, workers, device)
    results, save = dict(finished or {}), save or (lambda results: None)
    for name in ["clean", *names]:
        if name in results:
            continue
        if name != "clean" and attacks.ATTACKS[name].parts:
            _attack_in_sequence(name, measurement, results, save)
        else:
            results[name] = _attack_all(name, measurement, torch.zeros(len(images), dtype=torch.bool))
        save(results)
    results = {name: results[name] for name in ("clean", *attacks.ATTACKS) if name in results}
    accuracies = {name: result["accuracy"] for name, result in results.items()}
    covered = [name for name in attacks.PROTOCOLS if set(attacks.PROTOCOLS[name]) <= set(results)]
    return {
        "protocols": [protocol_name(protocol, epsilon) for protocol in covered] or ["custom"],
        "epsilon": epsilon,
        "images": len(images),
        "seed": seed,
        "attacks": results,
        "worst_case": _worst_case(results, len(images)) if "standard" in covered else None,
        "warnings": [*check_model(model, images, size, device), *check_results(accuracies, results, epsilon)],
    }


def _worst_case(results, count):
    """Percent of the `count` images that survive clean and every attack of protocol standard."""
    fallen = set()
    for name in ("clean", *attacks.PROTOCOLS["standard"]):
        fallen.update(results[name]["broken"])
    return 100 * (1 - len(fallen) / count)


def _attack_in_sequence(name, measurement, results, save):
    """Puts what is noted of a sequence into `results`: one part after the other attacks what still stands.

    Until all are through, what each has found stands there as 'SEQUENCE: PART', and is saved: a sequence may
    take hours. A part whose own result is there is not run again: all other images are known to survive it.
    """
    parts = attacks.ATTACKS[name].parts
    broken = torch.zeros(len(measurement.images), dtype=torch.bool)
    for known in ("clean", *parts):
        if known in results:
            broken[results[known]["broken"]] = True
    left = {f"{name}: {part}": part for part in parts if part not in results}
    for entry, part in left.items():
        if entry not in results:
            results[entry] = _attack_all(part, measurement, broken, title=entry)
            save(results)
        broken[results[entry]["broken"]] = True
    found = [results.pop(entry) for entry in left]
    results[name] = {
        "accuracy": _percent_standing(broken),
        "largest_change": max((each["largest_change"] for each in found), default=0.0),
        "out_of_range": max((each["out_of_range"] for each in found), default=0.0),
        "not_a_number": any(each["not_a_number"] for each in found),
        "seconds": sum(each["seconds"] for each in found),
        "broken": broken.nonzero().squeeze(1).tolist(),
    }
    Progress(f"attack {name}", 0, "image").line(_told(results[name], len(broken)))  # which has had its bars


def _told(result, count):
    return f"accuracy {result['accuracy']:.2f} % of {count} images, {result['seconds']:.1f} s"


def _percent_standing(broken):
    """broken: (N,) bool, or int64 of 0 and 1."""
    return 100 * (1 - broken.double().mean().item())


def _attack_all(name, measurement, known, title=None):
    """What is noted of an attack (or 'clean') on all images, of which each process attacks its share.

    known: (N,) bool on the CPU, as of `attacks.run`. title: of a part of a sequence [its name].
    """
    images, device = measurement.images, measurement.device
    batch_size = measurement.attack_batch
    if not batch_size:  # the same in all processes, since it decides who attacks which images
        fitting = memory.images_that_fit(measurement.model, measurement.size, device, most=MOST_IMAGES)
        batch_size = processes.least_of(fitting, device)
    share = -(-len(images) // processes.world_size())  # or a process would be left without
    chunks = ValidationBatches(images, batch_size=min(CHUNK * batch_size, share), size=measurement.size)
    broken = torch.zeros(len(images), dtype=torch.int64, device=device)
    extremes = torch.zeros(3, device=device)
    started, begin = time.monotonic(), 0
    with Progress(f"attack {title or name}", len(images), "image") as progress:
        for number, (pixels, labels) in enumerate(batches(chunks, measurement.workers, device)):
            indices = torch.arange(begin, begin + len(labels), device=device)
            begin += len(labels)
            if number % processes.world_size() == processes.rank():
                chunk = pixels, labels, indices, known[indices.cpu()]
                found, fell = measurement.attack(name, *chunk, batch_size)
                broken[indices] = fell.long()
                extremes = torch.maximum(extremes, _extremes(found, pixels))
            progress.step(len(labels), accuracy=100 * (1 - broken[:begin].double().mean()))
    processes.sum_over_processes(broken)
    largest_change, out_of_range, not_a_number = processes.maximum_over_processes(extremes).tolist()
    result = {
        "accuracy": _percent_standing(broken),
        "largest_change": largest_change,
        "out_of_range": out_of_range,
        "not_a_number": bool(not_a_number),
        "seconds": time.monotonic() - started,
        "broken": broken.nonzero().squeeze(1).tolist(),
    }
    if name != "clean" and (title is None or result["seconds"] >= LONG):  # clean takes no time
        progress.line(_told(result, len(images)))
    return result


def _extremes(found, pixels):
    """(3,): largest change of a pixel, largest excursion out of [0,1], and 1 where there is a NaN."""
    change = (found - pixels).abs().max()
    excursion = (-found).amax().maximum(found.amax() - 1).clamp(min=0)
    return torch.stack([change, excursion, found.isnan().any().to(found.dtype)])


def curve(
    model, images, epsilons, *, attack, size, attack_batch, seed, workers, device, finished=None, save=None
):
    """Accuracy (percent) under `attack` against epsilon, for the sorted `epsilons`.

    The settings are those of `evaluate`. finished: results at epsilons that need not be run again, by the
    text of epsilon, each as `evaluate` has it of an attack; save(of all so far) is called after each.

    Images that fall at an epsilon count as fallen at every larger one, whose ball holds the smaller. Returns
    {'attack', 'epsilon', 'accuracy', 'reaches_zero', 'warnings'}: at the largest epsilon no more than 1 % may
    survive, else the attack or the gradients are broken; warnings are those of `evaluate`.
    """
    fallen = torch.zeros(len(images), dtype=torch.bool)
    accuracies, results, warnings = [], dict(finished or {}), check_model(model, images, size, device)
    for epsilon in sorted(epsilons):
        key, name = str(epsilon), attack if epsilon else "clean"
        if key not in results:
            measurement = _Measurement(model, images, size, epsilon, attack_batch, seed, workers, device)
            results[key] = _attack_all(name, measurement, fallen)
            if save:
                save(results)
        fallen[results[key]["broken"]] = True
        accuracies.append(100 * (1 - fallen.double().mean().item()))
        found = check_results({}, {name: results[key]}, epsilon)
        warnings += [f"within {epsilon * 255:.4g}/255: {text}" for text in found]
    return {
        "attack": attack,
        "epsilon": sorted(epsilons),
        "accuracy": accuracies,
        "reaches_zero": 100 * (~fallen).sum().item() <= len(fallen),
        "warnings": warnings,
    }

"""Clean and robust accuracy of a model over a data set, by a named protocol, and the checks that the measurement makes of itself."""

import time

import torch

from guard import attacks, device
from guard.images import ValidationBatches, batches
from guard.training import Progress

CHUNK = 8  # attack batches that are held in memory at a time
TOLERANCE = 1e-6  # of float32 when a perturbation is compared with epsilon

# (attack that has to be at least as strong, weaker one, what it usually means when it is not)
ORDER = (
    ("pgd100", "clean", "the attack returned images that it did not attack"),
    ("mim", "clean", "the attack returned images that it did not attack"),
    ("cw", "clean", "the attack returned images that it did not attack"),
    ("autoattack", "pgd100", "PGD found what AutoAttack missed: gradients are masked or the model is random"),
    ("autoattack-paper", "pgd100", "PGD found what AutoAttack missed: gradients are masked or the model is random"),
    ("pgd100", "square", "a black-box attack beats a white-box one: the gradients mislead"),
)


def protocol_name(protocol, epsilon):
    """The protocol's name, or 'custom (...)' where a number of it is not its own."""
    if abs(epsilon - attacks.PROTOCOL_EPSILON) < 1e-9:
        return protocol
    return f"custom ({protocol} at epsilon {epsilon * 255:.4g}/255)"


def evaluate(model, images, *, size, protocol, epsilon, attack_batch, seed, workers, where, finished=None, save=None):
    """Accuracy (percent) of `model` (in eval mode, on `where`) on `images` in the validation view, clean and under each attack.

    images: guard.images.Packed or Streamed. finished: results of attacks that need not be run again; save(results) is called after
    each attack. Returns a dict: protocol, epsilon, attacks (name -> accuracy, largest L-inf change, seconds), left_out, worst_case,
    checks. An image that is misclassified clean is not robust; an image is broken by the first iterate that fools the model.
    """
    names = [name for name in attacks.PROTOCOLS[protocol] if name in attacks.ATTACKS]
    results = {} if finished is None else dict(finished)
    survivors = torch.ones(len(images), dtype=torch.bool)
    for name in ["clean", *names]:
        if name not in results:
            results[name] = _attack_all(name, model, images, size, epsilon, attack_batch, seed, workers, where)
            if save:
                save(results)
        survivors[results[name]["broken"]] = False
    accuracies = {name: result["accuracy"] for name, result in results.items()}
    return {
        "protocol": protocol_name(protocol, epsilon), "epsilon": epsilon, "images": len(images), "seed": seed, "attacks": results,
        "left_out": [name for name in attacks.PROTOCOLS[protocol] if name not in attacks.ATTACKS],
        "worst_case": 100 * survivors.double().mean().item() if protocol == "standard" else None,
        "warnings": warnings(accuracies, results, epsilon),
    }  # fmt: skip


def _attack_all(name, model, images, size, epsilon, attack_batch, seed, workers, where):
    chunks = ValidationBatches(images, batch_size=CHUNK * attack_batch, size=size)
    broken = torch.zeros(len(images), dtype=torch.int64, device=where)
    extremes = torch.zeros(3, device=where)  # largest change, largest excursion out of [0,1], NaNs
    started, begin = time.time(), 0
    with Progress(f"attack {name}", len(images), "image") as progress:
        for number, (pixels, labels) in enumerate(batches(chunks, workers, where)):
            indices = torch.arange(begin, begin + len(labels), device=where)
            begin += len(labels)
            if number % device.world_size() == device.rank():
                found, fell = _one_chunk(name, model, pixels, labels, indices, epsilon, attack_batch, seed)
                broken[indices] = fell.long()
                extremes = torch.maximum(extremes, _extremes(found, pixels))
            progress.step(len(labels), accuracy=100 * (1 - broken[:begin].double().mean()))
    device.sum_over_processes(broken)
    extremes = device.maximum_over_processes(extremes).tolist()
    accuracy = 100 * (1 - broken.double().mean().item())
    progress.line(f"accuracy {accuracy:.2f} % of {len(images)} images")
    return {
        "accuracy": accuracy, "largest_change": extremes[0], "out_of_range": extremes[1], "not_a_number": bool(extremes[2]),
        "seconds": time.time() - started, "broken": broken.nonzero().squeeze(1).tolist(),
    }  # fmt: skip


def _one_chunk(name, model, pixels, labels, indices, epsilon, attack_batch, seed):
    if name == "clean":
        return pixels, attacks.wrong(model, pixels, labels, attack_batch)
    return attacks.run(name, model, pixels, labels, epsilon=epsilon, seed=seed, indices=indices, batch_size=attack_batch)


def _extremes(found, pixels):
    return torch.stack([(found - pixels).abs().max(), (-found).amax().maximum(found.amax() - 1).clamp(min=0), found.isnan().any().to(found.dtype)])


def warnings(accuracies, results, epsilon):
    """One sentence for each check that fails: changes within epsilon, pixels in [0,1], no NaN, and the order that attacks must have."""
    found = []
    for name, result in results.items():
        bounded = name in attacks.ATTACKS and attacks.ATTACKS[name].bounded
        if bounded and result["largest_change"] > epsilon + TOLERANCE:
            found.append(f"{name} changed a pixel by {result['largest_change']:.6f}, more than epsilon {epsilon:.6f}: do not use its number")
        if result["out_of_range"] > TOLERANCE or result["not_a_number"]:
            found.append(f"{name} left the valid pixels: do not use its number")
    for stronger, weaker, meaning in ORDER:
        if stronger in accuracies and weaker in accuracies and accuracies[stronger] > accuracies[weaker] + 1e-9:
            found.append(f"{stronger} {accuracies[stronger]:.2f} is above {weaker} {accuracies[weaker]:.2f}: {meaning}")
    return found

"""The attacks against naive one-image loops, in float64; what they promise about balls, draws, batches
and the model.
"""

import math

import pytest
import torch
from conftest import pixel_model

from guard import attacks, registry
from guard.attacks import apgd, checks, metrics, robustness
from guard.attacks.cw import carlini_wagner
from guard.bench import reference
from guard.data.images import Packed
from guard.errors import UserError
from guard.run.seeds import generator

# What comes with the project breaks many; an attack of one's own may be as weak as noise.
STRONG = ["fgsm", "pgd20", "pgd100", "pgd100-l2", "mim", "square"]
STRONG += ["apgd-ce", "apgd-dlr", "fab", "apgd-ce-10", "apgd-dlr-10", "fab-10"]


@pytest.fixture
def model(network):
    """A float64 model that gets most images of the fixture below right, with margins that attacks can
    cross.
    """
    torch.manual_seed(2)
    made = pixel_model(network).train()
    images, labels = data(256)
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(made(images), labels).backward()
        optimizer.step()
    made.zero_grad()
    return made.eval()


@pytest.fixture(autouse=True)
def short_square(monkeypatch):
    """Square with 150 queries in place of 5,000: what is tested here does not depend on their number."""
    short = {"queries": 150, "p_init": 0.8}
    monkeypatch.setitem(attacks.ATTACKS, "square", attacks.ATTACKS["square"]._replace(settings=short))


def data(count, start=0):
    """(images in float64, noise whose brightest channel is the label, with pixels at both ends of [0,1];
    labels (N,)).
    """
    labels = (torch.arange(count) + start) % 3
    images = (
        torch.stack(
            [
                torch.rand(3, 8, 8, generator=generator("image", i + start), dtype=torch.float64)
                for i in range(count)
            ]
        )
        * 0.8
    )
    images[torch.arange(count), labels] += 0.08
    images[:, :, 0, :2], images[:, :, 0, 2:4] = 0.0, 1.0
    return images, labels


def starts(images, epsilon, seed, name, indices):
    return torch.stack(
        [
            (2 * torch.rand(images.shape[1:], generator=generator(seed, i, name, ""), dtype=images.dtype) - 1)
            * epsilon
            for i in indices
        ]
    )


@pytest.mark.parametrize("epsilon", [2 / 255, 6 / 255, 10 / 255])
def test_pgd_is_the_naive_loop(model, epsilon):
    images, labels = data(24, 300)
    found, broken = attacks.run("pgd100", model, images, labels, epsilon=epsilon, seed=4)
    expected, fell = reference.pgd(
        model, images, labels, epsilon, epsilon / 4, 100, starts(images, epsilon, 4, "pgd100", range(24))
    )
    assert broken.tolist() == fell.tolist()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    if epsilon == 6 / 255:
        assert 0 < broken.sum() < 24  # or the comparison would say little


@pytest.mark.parametrize("epsilon", [2 / 255, 6 / 255])
def test_mim_is_the_naive_loop(model, epsilon):
    images, labels = data(24, 300)
    found, broken = attacks.run("mim", model, images, labels, epsilon=epsilon)
    expected, fell = reference.mim(model, images, labels, epsilon, epsilon, 20, 1.0)
    assert broken.tolist() == fell.tolist()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("c, kappa", [(1e-4, 0.0), (1.0, 0.0), (1.0, 0.5)])
def test_carlini_wagner_is_the_naive_loop(model, c, kappa):
    images, labels = data(16, 300)
    standing = ~attacks.wrong(model, images, labels)
    images, labels = images[standing], labels[standing]
    found, broken = carlini_wagner(
        model,
        images,
        labels,
        epsilon=0,
        draws=None,
        batch_size=5,
        c=c,
        kappa=kappa,
        steps=50,
        learning_rate=0.01,
    )
    expected, fell = reference.cw(model, images, labels, c, kappa, 50, 0.01)
    assert broken.tolist() == fell.tolist()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    if c == 1.0:
        assert broken.any()


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_the_adversarial_images_depend_neither_on_batch_nor_on_order(name, model):
    images, labels = data(40, 300)
    epsilon = 6 / 255
    whole = attacks.attack(name, model, images, labels, epsilon=epsilon, seed=1, batch_size=40)
    order = torch.randperm(40, generator=generator("order"))
    shuffled = attacks.attack(
        name, model, images[order], labels[order], epsilon=epsilon, seed=1, indices=order, batch_size=7
    )
    assert torch.equal(shuffled, whole[order])
    assert torch.equal(
        whole, attacks.attack(name, model, images, labels, epsilon=epsilon, seed=1, batch_size=40)
    )


@pytest.mark.parametrize("name", [name for name, made in attacks.ATTACKS.items() if not made.parts])
def test_in_float32_batch_and_order_move_no_more_than_rounding_can(name, model):
    """At most one image in 500, at an epsilon at which some fall and some stand."""
    epsilon = 0.1 if name == "pgd100-l2" else 3 / 255
    model, (images, labels) = model.float(), data(500, 300)
    images = images.float()
    order = torch.randperm(500, generator=generator("order"))
    whole = attacks.run(name, model, images, labels, epsilon=epsilon, seed=1, batch_size=500)[1]
    shuffled = attacks.run(
        name, model, images[order], labels[order], epsilon=epsilon, seed=1, indices=order, batch_size=64
    )[1]
    assert (whole[order] != shuffled).sum() <= 1
    fell = (whole & ~attacks.wrong(model, images, labels)).sum()
    assert name == "cw" or (25 if name in STRONG else 0) < fell < 400, fell


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_promises(name, model):
    images, labels = data(30, 300)
    labels[0] = (labels[0] + 1) % 3
    model.train()
    model.eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found, broken = attacks.run(name, model, images, labels, epsilon=6 / 255)
    assert found.min() >= 0 and found.max() <= 1 and not found.isnan().any()
    if attacks.ATTACKS[name].norm == "L-inf":
        assert (found - images).abs().max() <= 6 / 255 + 1e-12
    assert broken[0] and torch.equal(found[0], images[0])  # wrong anyway: left alone
    assert torch.equal(attacks.wrong(model, found, labels), broken)  # what it returns is what it claims
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters()) and not model.training


def test_epsilon_zero_changes_nothing(model):
    images, labels = data(8)
    for name in ("pgd100", "mim"):
        assert torch.equal(attacks.attack(name, model, images, labels, epsilon=0.0), images)


BAD = {
    "negative epsilon": ({"epsilon": -0.1}, "epsilon"),
    "epsilon NaN": ({"epsilon": math.nan}, "finite number"),
    "epsilon infinite": ({"epsilon": math.inf}, "finite number"),
    "normalized images": ({"images": torch.randn(4, 3, 8, 8, dtype=torch.float64)}, "pixels have to be in"),
    "NaN images": (
        {"images": torch.full((4, 3, 8, 8), math.nan, dtype=torch.float64)},
        "pixels have to be in",
    ),
    "label too large": ({"labels": torch.tensor([0, 1, 2, 3])}, "label 3"),
    "label negative": ({"labels": torch.tensor([0, 1, 2, -1])}, "-1"),
    "other count": ({"labels": torch.tensor([0, 1])}, "expected"),
    "unknown attack": ({"name": "nosuch"}, "no attack 'nosuch'"),
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"indices": [3, 1]}, "2 indices of 4 images"), ({"batch_size": 0}, "batch_size is 0")],
)
def test_bad_numbers_are_named(changes, expected, model):
    with pytest.raises(UserError, match=expected):
        attacks.attack("pgd100", model, *data(4), **changes)


@pytest.mark.parametrize("name", ["pgd20", "square", "autoattack-paper"])
def test_an_attack_follows_gradients_whatever_its_caller_has_switched_off(name, model):
    """Evaluations stand in no_grad as a rule. Tensors that were made in inference mode have no gradients."""
    expected = attacks.attack(name, model, *data(6), epsilon=8 / 255)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            found = attacks.attack(name, model, *data(6), epsilon=8 / 255)
        assert torch.equal(found, expected)
    with torch.inference_mode():
        inputs = data(6)
    assert torch.equal(attacks.attack(name, model, *inputs, epsilon=8 / 255), expected)


def test_what_comes_back_has_no_graph_and_a_model_without_gradients_is_refused(model):
    images, labels = data(4)
    for name in ("pgd20", "square"):
        assert not attacks.attack(name, model, images.clone().requires_grad_(), labels).requires_grad
    with torch.inference_mode():
        made = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3)).double().eval()
    with pytest.raises(UserError, match="inference_mode"):
        attacks.attack("square", made, images, labels)
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_an_evaluation_without_gradients_is_the_same(model, cheap):
    expected = evaluated(model)
    with torch.inference_mode():
        found = evaluated(model)
    assert found["warnings"] == expected["warnings"]
    assert {name: held["broken"] for name, held in found["attacks"].items()} == {
        name: held["broken"] for name, held in expected["attacks"].items()
    }


@pytest.mark.parametrize("name", ["pgd20", "apgd-ce", "fab", "square", "cw", "autoattack-paper"])
def test_no_images_are_attacked_without_a_word(name, model):
    images, labels = data(4)
    assert attacks.attack(name, model, images[:0], labels[:0]).shape == (0, *images.shape[1:])


def test_apgd_keeps_no_graph_of_the_iterates_before(model, monkeypatch):
    """One that grows with each step would hold the images of all of them."""
    seen, keep_best = [], apgd._keep_best

    def watched(state, *given):
        seen.extend(state[name].requires_grad for name in ("before", "best", "best_gradient"))
        keep_best(state, *given)

    monkeypatch.setattr(apgd, "_keep_best", watched)
    attacks.attack("apgd-ce", model, *data(6), epsilon=8 / 255)
    assert len(seen) > 30 and not any(seen)


@pytest.mark.parametrize("case", BAD)
def test_bad_inputs_are_named(case, model):
    changes, expected = BAD[case]
    images, labels = data(4)
    arguments = {"name": "pgd100", "images": images, "labels": labels, "epsilon": 1 / 255, **changes}
    with pytest.raises(UserError, match=expected):
        attacks.attack(
            arguments["name"], model, arguments["images"], arguments["labels"], epsilon=arguments["epsilon"]
        )


def test_a_model_in_train_mode_is_refused(model):
    with pytest.raises(UserError, match="train mode"):
        attacks.attack("pgd100", model.train(), *data(4))


def evaluated(model, protocols=("cheap",), **changes):
    images, labels = data(30, 300)
    held = Packed((images * 255).round().to(torch.uint8), labels, ("a", "b", "c"))
    settings = {
        "names": robustness.attacks_of(protocols),
        "epsilon": 6 / 255,
        "attack_batch": 4,
        "seed": 0,
        "workers": 0,
        "device": torch.device("cpu"),
        **changes,
    }
    return robustness.evaluate(model.float(), held, size=8, **settings)


@pytest.fixture
def cheap(monkeypatch):
    """A protocol that takes no time, and a standard one of the same attacks."""
    monkeypatch.setitem(attacks.PROTOCOLS, "cheap", ("pgd100", "cw", "mim"))
    monkeypatch.setitem(attacks.PROTOCOLS, "standard", ("pgd100", "cw", "mim"))


def test_every_process_gets_images_to_attack(model, cheap, monkeypatch):
    """Also of fewer images than one process alone would take at a time."""
    for name in ("sum_over_processes", "maximum_over_processes"):
        monkeypatch.setattr(robustness.processes, name, lambda tensor: tensor)
    monkeypatch.setattr(robustness.processes, "world_size", lambda: 4)
    attacked, run = [0] * 4, attacks.run

    def counted(name, network, pixels, *given, **named):
        attacked[robustness.processes.rank()] += len(pixels)
        return run(name, network, pixels, *given, **named)

    monkeypatch.setattr(attacks, "run", counted)
    for rank in range(4):
        monkeypatch.setattr(robustness.processes, "rank", lambda rank=rank: rank)
        evaluated(model, names=["mim"], attack_batch=1000)
    assert all(attacked) and sum(attacked) == 30


def test_evaluation_counts_survivors(model, cheap):
    found = evaluated(model)
    clean, attacked = found["attacks"]["clean"]["accuracy"], found["attacks"]["pgd100"]["accuracy"]
    assert 0 < attacked < clean and found["warnings"] == []
    assert clean == pytest.approx(100 * (1 - len(found["attacks"]["clean"]["broken"]) / 30))
    assert set(found["attacks"]["clean"]["broken"]) <= set(found["attacks"]["pgd100"]["broken"])
    assert (
        "custom (cheap at epsilon 6/255)" in found["protocols"]
        and "cheap" in evaluated(model, epsilon=1 / 255)["protocols"]
    )
    broken = set().union(*(result["broken"] for result in found["attacks"].values()))
    assert found["worst_case"] == pytest.approx(100 * (1 - len(broken) / 30))
    assert (
        evaluated(model, attack_batch=30)["attacks"]["pgd100"]["broken"]
        == found["attacks"]["pgd100"]["broken"]
    )


def test_each_image_keeps_its_number_whatever_is_attacked_at_a_time(model, cheap, monkeypatch):
    """An attack's draws are by this number, so that no result depends on the batch size."""
    seen, run = [], attacks.run

    def watched(name, network, pixels, labels, *, indices, **named):
        seen.append(indices)
        return run(name, network, pixels, labels, indices=indices, **named)

    monkeypatch.setattr(attacks, "run", watched)
    evaluated(model, names=["mim"], attack_batch=2)
    assert len(seen) > 1 and torch.equal(torch.cat(seen), torch.arange(30))


def test_evaluation_goes_on_after_the_last_attack(model, cheap):
    saved = []
    whole = evaluated(model, save=lambda results: saved.append(dict(results)))
    assert [list(results) for results in saved] == [
        ["clean"],
        ["clean", "pgd100"],
        ["clean", "pgd100", "cw"],
        ["clean", "pgd100", "cw", "mim"],
    ]
    went_on = evaluated(model, finished=saved[1], save=lambda results: saved.append(dict(results)))
    assert len(saved) == 6 and went_on["attacks"]["pgd100"] == saved[1]["pgd100"]
    assert {name: result["broken"] for name, result in went_on["attacks"].items()} == {
        name: result["broken"] for name, result in whole["attacks"].items()
    }


def test_a_sequence_takes_over_what_its_parts_found(model, monkeypatch):
    monkeypatch.setitem(attacks.ATTACKS, "two", attacks.Attack(None, "", parts=("apgd-ce-10", "pgd20")))
    monkeypatch.setitem(attacks.PROTOCOLS, "alone", ("two",))
    monkeypatch.setitem(attacks.PROTOCOLS, "after", ("pgd20", "two"))
    runs, function = [], registry.function_of(attacks.ATTACKS["pgd20"].function)
    monkeypatch.setitem(
        attacks.ATTACKS,
        "pgd20",
        attacks.ATTACKS["pgd20"]._replace(
            function=lambda *words, **named: runs.append(1) or function(*words, **named)
        ),
    )
    alone = evaluated(model, protocols=("alone",))["attacks"]["two"]
    by_itself = len(runs)
    after = evaluated(model, protocols=("after",))["attacks"]["two"]
    assert alone["broken"] == after["broken"] and 0 < len(alone["broken"]) < 30
    assert by_itself and len(runs) == 2 * by_itself  # what survived it is not attacked by it again


def test_a_sequence_goes_on_after_its_last_part(model, monkeypatch, capsys):
    parts = ("fgsm", "apgd-dlr-10", "square", "mim")
    monkeypatch.setattr(robustness, "LONG", 1e6)
    monkeypatch.setitem(attacks.ATTACKS, "four", attacks.Attack(None, "", parts=parts))
    saved, settings = [], {"protocols": (), "names": ["square", "four"], "epsilon": 12 / 255}
    whole = evaluated(model, save=lambda results: saved.append(dict(results)), **settings)["attacks"]
    printed = [line.partition(": acc")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["attack square", "attack four"]  # parts that take long have a line, too
    of_parts = [f"four: {part}" for part in ("fgsm", "apgd-dlr-10", "mim")]  # square has its own result
    assert [list(results) for results in saved[2:]] == [
        ["clean", "square", *of_parts[:1]],
        ["clean", "square", *of_parts[:2]],
        ["clean", "square", *of_parts],
        ["clean", "square", "four"],
    ]
    assert list(whole) == ["clean", "square", "four"] and whole["four"] == saved[-1]["four"]
    found = [saved[4][part] for part in of_parts]
    assert whole["four"]["seconds"] == sum(each["seconds"] for each in found)
    assert whole["four"]["largest_change"] == max(each["largest_change"] for each in found) > 0
    images, labels = data(30, 300)
    pixels = (images * 255).round().float() / 255
    _, broken = attacks.run("four", model.float(), pixels, labels, epsilon=12 / 255)
    assert whole["four"]["broken"] == broken.nonzero().squeeze(1).tolist()
    alone = {name: saved[1][name] for name in ("clean", "square")}
    extra = next(number for number in range(30) if number not in found[0]["broken"])
    alone["square"] = {**alone["square"], "broken": [*alone["square"]["broken"], extra]}
    first = []
    evaluated(model, finished=alone, save=lambda results: first.append(dict(results)), **settings)
    assert extra in first[0]["four: fgsm"]["broken"]  # known before the first part
    capsys.readouterr()
    runs, once = [], robustness._Measurement.attack
    monkeypatch.setattr(
        robustness._Measurement, "attack", lambda self, *words: runs.append(words[0]) or once(self, *words)
    )
    monkeypatch.setattr(robustness, "LONG", 0.0)
    went_on = evaluated(model, finished=saved[3], **settings)["attacks"]
    assert [line.partition(": acc")[0] for line in capsys.readouterr().out.splitlines()] == [
        "attack four: mim",
        "attack four",
    ]
    assert {*runs} == {"mim"} and went_on["four"]["broken"] == whole["four"]["broken"]
    assert went_on["four"]["accuracy"] == whole["four"]["accuracy"] == 100 * (1 - broken.double().mean())


def test_what_is_known_to_be_broken_counts_as_broken(model, monkeypatch):
    """Alone, and as what a part of a sequence has found: here an image that no attack breaks at epsilon 0."""
    images, labels = data(30, 300)
    standing = (~attacks.wrong(model, images, labels)).nonzero().flatten()
    known = torch.zeros(30, dtype=torch.bool)
    known[standing[::2]] = True
    found, broken = attacks.run("fgsm", model, images, labels, epsilon=0.0, known=known)
    assert torch.equal(found, images)
    assert torch.equal(broken, known | attacks.wrong(model, images, labels))
    monkeypatch.setitem(attacks.ATTACKS, "two", attacks.Attack(None, "", parts=("fgsm", "pgd20")))
    settings = {"protocols": (), "epsilon": 0.0}
    finished = evaluated(model, names=["fgsm"], **settings)["attacks"]
    (fell,) = finished["fgsm"]["broken"] = [int(standing[0])]
    after = evaluated(model, names=["two"], finished=finished, **settings)["attacks"]
    assert fell in after["two"]["broken"] and fell not in after["clean"]["broken"]


@pytest.mark.parametrize("name", ["pgd20", "fgsm"])
def test_what_breaks_the_prepared_copy_alone_is_attacked_again_and_not_broken(name, model, monkeypatch):
    images, labels = data(30, 300)
    expected, fell = attacks.run(name, model, images, labels, epsilon=2 / 255)
    monkeypatch.setattr(attacks, "prepared", lambda *_: lambda pixels: -model(pixels))
    found, broken = attacks.run(name, model, images, labels, epsilon=2 / 255)
    assert torch.equal(broken, attacks.wrong(model, found, labels)) and torch.equal(broken, fell)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_an_attack_calls_the_model_with_whole_blocks_of_images():
    sizes = []
    logits = attacks._whole_blocks(lambda images: sizes.append(len(images)) or images.flatten(1))
    for count in (1, 8, 13):
        images = torch.rand(count, 3, 2, 2)
        assert torch.equal(logits(images), images.flatten(1))
    assert sizes == [8, 8, 16]


def test_the_gate_sees_changes_and_pixels_outside_on_both_sides():
    pixels = torch.full((2, 3, 2, 2), 0.5)
    for value, change, excursion in [(0.7, 0.2, 0), (0.2, 0.3, 0), (-0.1, 0.6, 0.1), (1.3, 0.8, 0.3)]:
        found = pixels.clone()
        found[1, 2, 0, 1] = value
        assert robustness._extremes(found, pixels).tolist() == pytest.approx([change, excursion, 0])
    found[0, 0, 0, 0] = math.nan
    assert robustness._extremes(found, pixels)[2] == 1


def test_the_gate_names_what_is_wrong():
    fine = {"largest_change": 0.01, "out_of_range": 0.0, "not_a_number": False}
    check = checks.check_results
    assert check({"clean": 90.0, "pgd100": 50.0}, {"clean": fine, "pgd100": fine}, 0.01) == []
    too_far = check({"pgd100": 50.0}, {"pgd100": {**fine, "largest_change": 0.02}}, 0.01)
    assert len(too_far) == 1 and "more than epsilon" in too_far[0]
    assert "valid pixels" in check({}, {"cw": {**fine, "not_a_number": True}}, 0.01)[0]
    assert "valid pixels" in check({}, {"cw": {**fine, "out_of_range": 0.1}}, 0.01)[0]


@pytest.mark.parametrize(
    "stronger, weaker, meaning",
    [
        ("autoattack", "pgd100", "masked"),
        ("autoattack-paper", "pgd100", "too few"),
        ("autoattack", "square", "black-box"),
        ("autoattack-paper", "square", "black-box"),
        ("pgd100", "square", "black-box"),
        ("mim", "square", "black-box"),
        ("pgd100", "clean", "cannot repair"),
        ("square", "clean", "cannot repair"),
        ("mim", "clean", "cannot repair"),
        ("cw", "clean", "cannot repair"),
    ],
)
def test_the_gate_names_each_pair_whose_order_is_broken(stronger, weaker, meaning):
    assert checks.check_results({stronger: 50.0, weaker: 50.0}, {}, 0.01) == []
    assert checks.check_results({stronger: 49.0, weaker: 50.0}, {}, 0.01) == []
    (told,) = checks.check_results({stronger: 50.01, weaker: 50.0}, {}, 0.01)  # one image of ten thousand
    assert told.startswith(f"{stronger} 50.01 is above {weaker} 50.00: ") and meaning in told


def test_an_evaluation_of_earlier_is_held_against_the_checks_of_today():
    attacked = {"clean": 90.0, "mim": 51.0, "square": 50.0}
    record = {"attacks": {name: {"accuracy": value} for name, value in attacked.items()}}
    found = checks.said({**record, "warnings": ["as it was made"]})
    assert found[0] == "as it was made" and len(found) == 2 and found[1].startswith("mim 51.00 is above")
    assert checks.said({**record, "warnings": found[1:]}) == found[1:]  # each once


class Odd(torch.nn.Module):
    """A model with a property that makes attacks on it mean little."""

    def __init__(self, inner, kind):
        super().__init__()
        self.inner, self.kind = inner, kind

    def forward(self, pixels):
        logits = self.inner(pixels)
        if self.kind == "random":
            return logits + torch.rand_like(logits)
        if self.kind == "ruined":
            return logits * torch.nan
        return (
            logits.softmax(1)
            if self.kind == "probabilities"
            else (logits * 1e6).round()
            if self.kind == "flat"
            else logits
        )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("plain", None),
        ("random", "random"),
        ("probabilities", "probabilities"),
        ("flat", "gradient is zero on 100 %"),
        ("ruined", "no finite numbers"),
    ],
)
def test_a_model_that_hides_from_attacks_is_named(kind, expected, model):
    images, labels = data(30)
    found = checks.check_model(
        Odd(model.float(), kind).eval(),
        Packed((images * 255).to(torch.uint8), labels, ("a", "b", "c")),
        8,
        torch.device("cpu"),
    )
    assert found == [] if expected is None else (len(found) == 1 and expected in found[0])


def test_a_pixel_that_the_model_does_not_look_at_is_no_vanished_gradient(model):
    images, labels = data(30)
    seen = torch.ones(8, 8)
    seen[0, 0] = 0
    packed = Packed((images * 255).to(torch.uint8), labels, ("a", "b", "c"))
    cropped = torch.nn.Sequential(Odd(model.float(), "plain")).eval()
    cropped.register_forward_pre_hook(lambda _, inputs: inputs[0] * seen)
    assert checks.check_model(cropped, packed, 8, torch.device("cpu")) == []


def test_the_curve_falls_to_zero_and_says_so(model):
    images, labels = data(30, 300)
    held = Packed((images * 255).round().to(torch.uint8), labels, ("a", "b", "c"))
    settings = {
        "attack": "pgd100",
        "size": 8,
        "attack_batch": 30,
        "seed": 0,
        "workers": 0,
        "device": torch.device("cpu"),
    }
    found = robustness.curve(model.float(), held, (64 / 255, 0.0, 6 / 255), **settings)
    assert (
        found["epsilon"] == [0.0, 6 / 255, 64 / 255]
        and found["accuracy"][0] > found["accuracy"][1] > found["accuracy"][2] == 0
    )
    assert (
        found["reaches_zero"] and not robustness.curve(model, held, (0.0, 1e-5), **settings)["reaches_zero"]
    )


@pytest.mark.parametrize(("standing", "reaches"), [(1, True), (2, True), (3, False)])
def test_a_curve_reaches_zero_where_at_most_one_percent_is_left(standing, reaches, monkeypatch):
    """Of 200 images, all of whose attacks were made before."""
    monkeypatch.setattr(robustness, "check_model", lambda *_: [])
    unused = dict.fromkeys(("size", "attack_batch", "seed", "workers", "device"))
    fine = {"largest_change": 0.25, "out_of_range": 0.0, "not_a_number": False}
    finished = {"0.25": {"broken": [], **fine}, "0.5": {"broken": list(range(200 - standing)), **fine}}
    found = robustness.curve(None, range(200), (0.5, 0.25), attack="pgd100", finished=finished, **unused)
    assert found["accuracy"] == pytest.approx([100, standing / 2]) and found["reaches_zero"] == reaches


def test_a_curve_checks_the_model_and_each_of_its_attacks(model, monkeypatch):
    images, labels = data(30, 300)
    held = Packed((images * 255).round().to(torch.uint8), labels, ("a", "b", "c"))
    settings = {"size": 8, "attack_batch": 30, "seed": 0, "workers": 0, "device": torch.device("cpu")}
    assert robustness.curve(model.float(), held, (0.0, 2 / 255), attack="pgd20", **settings)["warnings"] == []

    def too_far(name, model, pixels, labels, epsilon, **named):
        return (pixels + 2 * epsilon).clamp(max=1), torch.zeros(len(labels), dtype=torch.bool)

    monkeypatch.setattr(attacks, "run", too_far)
    probabilities = torch.nn.Sequential(model, torch.nn.Softmax(dim=1)).eval()
    found = robustness.curve(probabilities, held, (0.0, 2 / 255), attack="pgd20", **settings)["warnings"]
    assert len(found) == 2 and found[0].startswith("the outputs are probabilities already")
    assert found[1].startswith("within 2/255: pgd20 changed a pixel by 0.015686, more than epsilon 0.007843")


def test_metrics_of_a_record_take_clean_for_no_attack():
    record = {name: {"accuracy": value} for name, value in (("pgd100", 60), ("clean", 90), ("square", 30))}
    found = metrics.of_record({"attacks": record, "worst_case": 25})
    assert found["robustness_ratio"] == metrics.robustness_ratio(90, [60, 30])
    assert found["improved_robustness_ratio"] == metrics.improved_robustness_ratio(90, [60, 30])
    assert found["drop_rate"] == pytest.approx({"pgd100": 1 / 3, "square": 2 / 3})
    assert found["worst_case"] == 25


def test_metrics_are_their_formulas():
    assert metrics.robustness_ratio(90, [60, 30]) == pytest.approx(100 * (1 - 45 / 60))
    assert metrics.improved_robustness_ratio(90, [60, 30]) == pytest.approx(100 * (1 - 45 * 60 / 8100))
    assert metrics.drop_rates(90, [60, 30]) == pytest.approx([1 / 3, 2 / 3])
    assert metrics.robustness_ratio(90, [40, 40]) == 0  # equally robust to all: the known pathology
    assert (
        math.isnan(metrics.robustness_ratio(90, [90]))
        and metrics.improved_robustness_ratio(90, [90]) == 100
        and metrics.improved_robustness_ratio(90, [0]) == 0
    )
    assert math.isnan(metrics.improved_robustness_ratio(0, [0])) and math.isnan(metrics.drop_rates(0, [0])[0])


def test_the_worst_case_counts_images_that_fall_to_different_attacks():
    results = {name: {"broken": []} for name in ("clean", *attacks.PROTOCOLS["standard"])}
    for name, broken in (("clean", [0]), ("pgd100", [0, 1]), ("square", [0, 2]), ("cw", [0, 3])):
        results[name]["broken"] = broken
    for found in results.values():
        found["accuracy"] = 100 * (1 - len(found["broken"]) / 10)
    assert robustness._worst_case(results, 10) == pytest.approx(60)

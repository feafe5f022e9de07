"""Networks by name: shapes, stems, normalization."""

import dataclasses
import functools

import pytest
import torch
import torchvision
from conftest import command, pixel_model
from torch._dynamo.testing import CompileCounter

from guard.errors import UserError
from guard.networks import checkpoint, layout, models, weights
from guard.recipes import recipe

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


def build(name, size, stem="standard", classes=7):
    return models.build(name, classes=classes, image_size=size, stem=stem, mean=MEAN, std=STD).eval()


@pytest.mark.parametrize(
    ("name", "size", "stem"),
    [
        ("convnet", 32, "cifar"),
        ("convnet-32", 16, "cifar"),
        ("convnet-in", 32, "cifar"),
        ("resnet18", 64, "standard"),
        ("resnet18", 32, "cifar"),
        ("resnet18", 224, "tiny"),
        ("resnet50", 32, "cifar"),
        ("vit", 32, "standard"),
        ("vits", 64, "standard"),
        ("vitb", 32, "standard"),
        ("mobilenet_v2", 64, "standard"),
        ("vgg11_bn", 32, "standard"),
    ],
)
def test_pixels_to_logits(name, size, stem):
    with torch.no_grad():
        assert build(name, size, stem)(torch.rand(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["convnet", "convnet-in", "resnet18", "vit"])
def test_a_compiled_network_is_compiled_as_a_whole(name, monkeypatch):
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    model = build(name, 32)
    layout.arrange(model.network, channels_last=False, compile=True)
    with torch.no_grad():
        model(torch.rand(2, 3, 32, 32))
    assert counter.frame_count == 1 and counter.op_count > 5


def test_a_compiled_network_may_be_gone_back_through_twice(monkeypatch):
    """As the regularizer `loss` does."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model = build("convnet-32", 16)
    layout.arrange(model.network, channels_last=False, compile=True)
    pixels = torch.rand(2, 3, 16, 16, requires_grad=True)
    model(pixels).sum().backward()  # a first time
    logits = model(pixels)
    torch.autograd.grad(logits.logsumexp(1).sum(), pixels, retain_graph=True)
    logits.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("name", ["mnasnet0_5", "mobilenet_v3_small"])
def test_a_network_of_torchvision_is_saved_and_built_again(name, tmp_path):
    """One of them has a version in its state_dict, and the other a layer that torch derives once alone."""
    teacher = tmp_path / "t/checkpoint.pt"
    words = ["--batch-size", 10, "--image-size", 32, "--val-images", 1, "--curvature-images", 2]
    given = ["-d", "digits", "--model", name, "--epochs", 1, "--images", 1, *words]
    assert command("pretrain", *given, "--output", teacher.parent) == 0
    built, state = checkpoint.load(teacher).build(), tmp_path / "weights.pt"
    torch.save(built.network.state_dict(), state)
    assert command("pretrain", *given, "--weights", state, "--output", tmp_path / "adopted") == 0
    assert (
        checkpoint.load(tmp_path / "adopted/checkpoint.pt").fingerprint
        == checkpoint.load(teacher).fingerprint
    )


def test_the_published_shapes():
    assert sum(p.numel() for p in build("vit", 224).parameters()) == pytest.approx(
        5.5e6, rel=0.02
    )  # ViT-Tiny/16
    assert sum(p.numel() for p in build("vits", 224).parameters()) == pytest.approx(21.6e6, rel=0.02)
    convnet = build("convnet", 32, classes=10)
    assert sum(
        p.numel() for p in convnet.parameters()
    ) == 3 * 128 * 9 + 2 * 128 * 128 * 9 + 3 * 128 * 3 + 10 * (128 * 16 + 1)
    assert (
        len(models.batch_norm_layers(convnet)) == 3 and len(models.batch_norm_layers(build("vit", 32))) == 0
    )


def test_instance_norm_sees_one_image_and_channel_alone():
    model = build("convnet-in", 16)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in build("convnet", 16).parameters()
    )
    assert not models.batch_norm_layers(model)
    norm, activations = model.network[1], 3 * torch.randn(2, 128, 4, 4) + 5
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 1, 128))
        norm.bias.copy_(torch.linspace(2, 3, 128))
        for mode in (True, False):
            found = norm.train(mode)(activations)[1, 100]
            one = activations[1, 100]
            expected = (one - one.mean()) / (one.var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(found, expected * norm.weight[100] + norm.bias[100])


@pytest.mark.parametrize(("stem", "stride", "padding", "side"), [("cifar", 1, 1, 32), ("tiny", 2, 3, 18)])
def test_small_stems(stem, stride, padding, side):
    network = build("resnet18", 32, stem).network
    assert (network.conv1.kernel_size, network.conv1.stride, network.conv1.padding) == (
        (3, 3),
        (stride,) * 2,
        (padding,) * 2,
    )
    assert network.maxpool(network.conv1(torch.rand(1, 3, 32, 32))).shape[2:] == (side, side)


def test_normalization_is_the_first_layer():
    model, pixels = build("convnet-32", 16), torch.rand(2, 3, 16, 16)
    by_hand = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(model(pixels), model.network(by_hand))
    torch.testing.assert_close(model.denormalize(model.normalize(pixels)), pixels)


def test_unknown_names_and_sizes_are_named():
    with pytest.raises(UserError, match="no model 'nosuch'"):
        build("nosuch", 32)
    with pytest.raises(UserError, match="9 pixels"):
        build("vitb", 9)


def test_tiny_imagenet_at_its_native_size_takes_the_cifar_stem():
    from guard import cli

    parser = cli.stage_parser("pretrain", "", "pretrain", argv=[])
    assert cli.resolve(parser.parse_args(["--image-size", "64"]), "tiny-imagenet", "pretrain").stem == "cifar"
    assert (
        cli.resolve(parser.parse_args([]), "tiny-imagenet", "pretrain").stem
        == "tiny"
        == recipe("tiny-imagenet").pretrain.stem
    )
    assert cli.resolve(parser.parse_args(["--image-size", "64"]), "imagenette", "pretrain").stem == "standard"


def test_frozen_eval_puts_everything_back():
    model = build("convnet-32", 16).train()
    model.network[1].eval()
    model.network[0].weight.requires_grad_(False)
    with models.frozen_eval(model):
        assert not any(m.training for m in model.modules()) and not any(
            p.requires_grad for p in model.parameters()
        )
    assert model.training and not model.network[1].training and model.network[2].training
    assert not model.network[0].weight.requires_grad and model.network[1].weight.requires_grad


def test_channels_that_a_relu_leaves_at_zero_are_counted(network, batch):
    model = pixel_model(network)
    norm, relu = network[4], network[5]
    with torch.no_grad():
        norm.bias[[1, 3]] = -100.0
    pixels = batch[0].sigmoid()
    assert models.silent_channels(model, pixels) == [("network.5", 2, 5)]
    assert not relu._forward_hooks
    with torch.no_grad():
        norm.bias[[1, 3]] = 0.0
    assert models.silent_channels(model, pixels) == [("network.5", 0, 5)]


def test_a_channel_that_speaks_once_is_not_silent():
    """In the second mini-batch; a ReLU behind the feature maps is no channel's."""
    layers = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.ReLU())
    pixels = torch.zeros(40, 3, 8, 8)
    pixels[39, 1, 2, 2] = 1.0
    model = models.PixelModel(layers, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), 8)
    assert models.silent_channels(model, pixels) == [("network.0", 2, 3)]


@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnet152"])
def test_the_resnets_that_go_by_torchvisions_names_have_the_stem_too(name):
    shape = {"classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    for stem, kernel in (("cifar", (3, 3)), ("standard", (7, 7))):
        network = models.build(name, stem=stem, **shape).network
        assert network.conv1.kernel_size == kernel
        assert isinstance(network.maxpool, torch.nn.Identity) == (stem == "cifar")


def test_a_checkpoint_of_such_a_resnet_that_had_its_own_stem_anyway_is_built_as_it_was():
    """Earlier versions did not give it the one that was asked for."""
    name = "resnext50_32x4d"
    shape = {"image_size": 32, "mean": MEAN, "std": STD, "classes": [str(number) for number in range(7)]}
    state = build(name, 32, "standard").network.state_dict()
    about = {"role": "teacher", "dataset": "cifar10", "seed": 0, "settings": {}}
    held = checkpoint.Checkpoint(model=name, stem="cifar", state=state, **shape, **about)
    assert held.build().network.conv1.kernel_size == (7, 7)
    state = build(name, 32, "cifar").network.state_dict()
    assert dataclasses.replace(held, state=state).build().network.conv1.kernel_size == (3, 3)


def test_weights_that_do_not_count_mini_batches_are_loaded(tmp_path):
    """As torchvision's of the ResNets, which are older than the counters. Another missing key is named."""
    whole = build("resnet18", 64).network.state_dict()
    counted = {name for name in whole if name.endswith("num_batches_tracked")}
    assert len(counted) == 20
    torch.save({name: whole[name] for name in whole if name not in counted}, tmp_path / "old.pt")
    network = build("resnet18", 64).network
    weights.load_weights(network, tmp_path / "old.pt", "resnet18")
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], whole[name]) for name in whole if name not in counted)
    lacking = {name: whole[name] for name in whole if name not in {*counted, "bn1.running_mean"}}
    torch.save(lacking, tmp_path / "lacking.pt")
    with pytest.raises(UserError, match=r"resnet18: missing bn1\.running_mean; check"):
        weights.load_weights(network, tmp_path / "lacking.pt", "resnet18")


def test_weights_of_torchvision_go_by_its_names(monkeypatch):
    """vitb is its vit_b_16."""
    asked = []

    def get_model_weights(name):
        asked.append(name)
        raise ValueError(name)

    monkeypatch.setattr(torchvision.models, "get_model_weights", get_model_weights)
    for name in ("vitb", "resnet18", "resnet152"):
        with pytest.raises(UserError, match=f"for {name}"):
            weights._torchvision_state("IMAGENET1K_V1", name)
    assert asked == ["vit_b_16", "resnet18", "resnet152"]

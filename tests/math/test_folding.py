"""Batch norm folded into convolutions: the same function, the same gradients, and nothing left behind."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from guard.networks import models, synced_norm, torchvision_models
from guard.networks.folding import foldable, folded
from guard.networks.synced_norm import synchronize


def statistics(network, size=8):
    """Running statistics and affine parameters that are not trivial, in float64."""
    torch.manual_seed(1)
    network.double().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    for _ in range(3):
        network(torch.randn(8, 3, size, size, dtype=torch.float64))
    return network.eval()


class Shared(nn.Module):
    """One convolution, used twice, of which only the second use is normalized."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(self.conv(x))).mean((2, 3))


class Seen(nn.Module):
    """A convolution whose output is used beside its norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        before = self.conv(x)
        return (self.norm(before) + before).mean((2, 3))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, x):
        return self.body(x) if x.sum() > 0 else -self.body(x)


def plain_layers(bias, affine):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=bias),
        nn.BatchNorm2d(4, affine=affine),
        nn.Softplus(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )


def synchronized(network):
    synchronize(network)
    network.train = lambda mode=True: nn.Module.train(
        network, False
    )  # no group of processes here, so statistics stay as they are made
    return network


NETWORKS = {
    "bias": (lambda: plain_layers(True, True), 1),
    "no bias": (lambda: plain_layers(False, True), 1),
    "no weights in the norm": (lambda: plain_layers(True, False), 1),
    "shared": (Shared, 0),
    "seen by others": (Seen, 0),
    "not to be traced": (Untraceable, 0),
    "convnet": (lambda: models.ConvNet(3, 8, width=5), 3),
    "synchronized": (lambda: synchronized(models.ConvNet(3, 8, width=5)), 3),
    "resnet18": (lambda: torchvision_models.resnet(3, 8, "cifar", "resnet18"), 20),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_folded_network_is_the_same_function_with_the_same_gradients_of_gradients(name):
    make, pairs = NETWORKS[name]
    network = statistics(make())
    assert len(foldable(network)) == pairs
    x = torch.randn(
        4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    ).requires_grad_()

    def seen():
        outputs = network(x)
        (gradient,) = torch.autograd.grad(outputs.square().sum(), x, create_graph=True)
        return [
            outputs,
            gradient,
            *torch.autograd.grad(gradient.square().sum(), list(network.parameters()), allow_unused=True),
        ]

    expected, before = seen(), copy.deepcopy(network.state_dict())
    with folded(network):
        found = seen()
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    assert not any("forward" in vars(module) for module in network.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_after_an_error_nothing_stays_folded():
    network = statistics(plain_layers(True, True))
    with pytest.raises(ZeroDivisionError), folded(network):
        assert any("forward" in vars(module) for module in network.modules())
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in network.modules())


def test_synchronized_batch_norm_of_a_single_value_says_so_as_torch_does(monkeypatch):
    monkeypatch.setattr(synced_norm, "_Sum", SimpleNamespace(apply=lambda own: own))  # of a process alone
    network = nn.Sequential(nn.BatchNorm2d(3))
    single = torch.ones(1, 3, 1, 1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(single)
    synchronize(network)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(single)
    assert network[0].running_var.isfinite().all() and network(torch.ones(2, 3, 1, 1)).isfinite().all()


def test_synchronized_batch_norm_of_several_values_does_not_wait_for_the_device(monkeypatch):
    """On meta tensors, whose numbers nobody can ask for."""
    monkeypatch.setattr(synced_norm, "_Sum", SimpleNamespace(apply=lambda own: own))
    network = nn.Sequential(nn.BatchNorm2d(3, device="meta"))
    synchronize(network)
    assert network(torch.ones(2, 3, 1, 1, device="meta")).shape == (2, 3, 1, 1)

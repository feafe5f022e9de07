"""No step of a stage asks a GPU for what torch has no deterministic kernel for, and the switches are set.

The steps are those of tests/device_steps.py, on the stand-in for a GPU of tests/instrument.py.
"""

import functools
import os
import re

import pytest
import torch

from guard.networks import layout, models
from guard.run import devices
from tests import device_steps
from tests.instrument import GPU, Instrument, on_device

# What torch.use_deterministic_algorithms would raise for -> the ops of aten that are meant. Where its
# documentation has a condition (weights are given, numbers are floats), the op is here without it.
WITHOUT = {
    "nn.AvgPool3d": ["avg_pool3d_backward"],
    "nn.AdaptiveAvgPool2d": ["_adaptive_avg_pool2d_backward"],
    "nn.AdaptiveAvgPool3d": ["_adaptive_avg_pool3d_backward"],
    "nn.MaxPool3d": ["max_pool3d_with_indices_backward"],
    "nn.AdaptiveMaxPool2d": ["adaptive_max_pool2d_backward"],
    "nn.FractionalMaxPool2d": ["fractional_max_pool2d_backward"],
    "nn.FractionalMaxPool3d": ["fractional_max_pool3d_backward"],
    "nn.MaxUnpool1d": ["max_unpool2d"],
    "nn.MaxUnpool2d": ["max_unpool2d"],
    "nn.MaxUnpool3d": ["max_unpool3d"],
    "nn.functional.interpolate": [
        "upsample_linear1d_backward",
        "upsample_bilinear2d_backward",
        "_upsample_bilinear2d_aa_backward",
        "upsample_bicubic2d_backward",
        "_upsample_bicubic2d_aa_backward",
        "upsample_trilinear3d_backward",
    ],
    "nn.ReflectionPad1d": ["reflection_pad1d_backward"],
    "nn.ReflectionPad2d": ["reflection_pad2d_backward"],
    "nn.ReflectionPad3d": ["reflection_pad3d_backward"],
    "nn.NLLLoss": ["nll_loss2d_forward", "nll_loss2d_backward"],  # of images; of rows it is deterministic
    "nn.CTCLoss": ["_ctc_loss_backward"],
    "nn.EmbeddingBag": ["_embedding_bag_dense_backward", "_embedding_bag_backward"],
    "Tensor.put_": ["put_", "put"],
    "histc": ["histc"],
    "bincount": ["bincount"],
    "median": ["median", "nanmedian"],
    "nn.functional.grid_sample": ["grid_sampler_2d_backward", "grid_sampler_3d_backward"],
    "cumsum": ["cumsum", "cumsum_"],
    "Tensor.scatter_reduce": ["scatter_reduce", "scatter_reduce_"],
    "Tensor.resize_": ["resize_"],
}
# What warns as well, of which that documentation says nothing.
UNDOCUMENTED = [
    "kthvalue",
    "_scaled_dot_product_flash_attention_backward",
    "_scaled_dot_product_efficient_attention_backward",
    "_scaled_dot_product_cudnn_attention_backward",
    "_efficient_attention_backward",
    "_flash_attention_backward",
]
FORBIDDEN = {op for ops in WITHOUT.values() for op in ops} | set(UNDOCUMENTED)


def refused(names):
    """Those of an instrument's names of ops that have no deterministic kernel."""
    return {name for name in names if name.split(".")[1] in FORBIDDEN}


def names_of(work):
    """Names of the ops that `work`(model, device) dispatches."""
    model = device_steps.make_model()
    with Instrument() as instrument:
        work(model.to(GPU), GPU)
    return instrument.names


# ---- the list ------------------------------------------------------------------------------------


def test_the_list_has_what_torch_says():
    told = torch.use_deterministic_algorithms.__doc__.split("operations will throw a")[1]
    told = told.split("In addition")[0]
    assert "nn.AvgPool3d" in told and set(re.findall(r":(?:class|func):`torch\.([\w.]+)`", told)) <= set(
        WITHOUT
    )


def test_each_op_of_the_list_exists():
    assert all(hasattr(torch.ops.aten, op) for op in FORBIDDEN)


def pooled(there):
    torch.nn.functional.adaptive_avg_pool2d(there.requires_grad_(), 3).sum().backward()


def resized(there):
    # Called by name: `interpolate` goes another way where torch was asked for deterministic algorithms.
    torch.ops.aten.upsample_bilinear2d(there.requires_grad_(), [7, 7], False).sum().backward()


@pytest.mark.parametrize(
    "mistake", [pooled, resized, lambda there: there.cumsum(0), lambda there: there.histc()]
)
def test_a_deliberate_mistake_is_seen(mistake):
    with Instrument() as instrument:
        mistake(on_device(torch.rand(1, 2, 8, 8)))
    assert refused(instrument.names)


# ---- the steps -----------------------------------------------------------------------------------

WORK = {
    **{
        kind: functools.partial(device_steps.train_teacher, steps=1, **changes)
        for kind, changes in device_steps.TEACHERS.items()
    },
    **{
        kind: functools.partial(device_steps.recover_images, iterations=2, **changes)
        for kind, changes in device_steps.RECOVERIES.items()
    },
    **{
        kind: functools.partial(device_steps.label_images, steps=1, **changes)
        for kind, changes in device_steps.LABELS.items()
    },
    **{
        kind: functools.partial(device_steps.train_student, steps=1, **changes)
        for kind, changes in device_steps.STUDENTS.items()
    },
    **{
        f"attack {name}": functools.partial(device_steps.attack_images, name, steps=2)
        for name in device_steps.ATTACK_NAMES
    },
    "curvature": device_steps.measure_curvature,
    "start from crops": device_steps.start_from_crops,
    "many sizes": device_steps.see_many_sizes,
    "a watched teacher": functools.partial(device_steps.watch_teacher, epsilon=0.05),
}


def test_all_kinds_of_steps_are_looked_at():
    assert set(device_steps.KINDS) <= set(WORK)


@pytest.mark.parametrize("kind", WORK)
def test_a_step_has_deterministic_kernels(kind):
    names = names_of(WORK[kind])
    assert names and not refused(names)


def passes_of(name, size, stem="standard"):
    """Names of the ops of a model's forward pass and backward pass."""
    torch.manual_seed(0)
    given = {"classes": 4, "image_size": size, "stem": stem, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    model = models.build(name, **given)
    with Instrument() as instrument:
        model = model.to(GPU)
        model(torch.rand(2, 3, size, size).to(GPU)).square().sum().backward()
    return instrument.names


@pytest.mark.parametrize(
    ("name", "stem"), [("resnet18", "standard"), ("resnet18", "cifar"), ("vit", "standard")]
)
def test_a_network_has_deterministic_kernels(name, stem):
    names = passes_of(name, 32, stem)
    assert any("backward" in each for each in names) and not refused(names)


def test_the_documented_exception_is_one():
    """Some of torchvision's networks pool to 7x7 or 6x6; docs/guarantees.md names two."""
    assert refused(passes_of("alexnet", 64)) == {"aten._adaptive_avg_pool2d_backward.default"}


# ---- switches ------------------------------------------------------------------------------------

SWITCHES = ["flash_sdp", "mem_efficient_sdp", "cudnn_sdp", "math_sdp"]


@pytest.fixture
def switches_kept():
    """What the tests switch is as before when they are over."""
    before = {name: getattr(torch.backends.cuda, f"{name}_enabled")() for name in SWITCHES}
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    yield
    for name, value in before.items():
        getattr(torch.backends.cuda, f"enable_{name}")(value)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(deterministic, warn_only=warns)
    torch.utils.deterministic.fill_uninitialized_memory = fills


def attention():
    """Which kernels of attention torch may take."""
    return [getattr(torch.backends.cuda, f"{name}_enabled")() for name in SWITCHES]


def test_attention_on_a_gpu_is_deterministic_and_that_on_the_cpu_stays(switches_kept, monkeypatch):
    before = attention()
    monkeypatch.setattr(devices, "select", lambda name: torch.device("cpu"))
    devices.ready("cpu")
    assert attention() == before
    monkeypatch.setattr(devices, "select", lambda name: GPU)
    devices.ready("0")
    assert attention() == [False, False, False, True]


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_the_switches_are_set_before_a_gpu_is_looked_for(given, switches_kept, monkeypatch):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if given:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
    seen = []

    def select(name):
        seen.append(os.environ["CUBLAS_WORKSPACE_CONFIG"])
        assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cudnn.benchmark and torch.are_deterministic_algorithms_enabled()
        return torch.device("cpu")

    monkeypatch.setattr(devices, "select", select)
    devices.ready("0")
    assert seen == [given or ":4096:8"]


def test_the_compiler_is_told_with_the_first_network_that_it_gets(switches_kept, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config, "deterministic", False)
    devices.make_deterministic()
    layout.arrange(torch.nn.Linear(1, 1), channels_last=False, compile=True)
    assert config.deterministic and torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize("precision", ["fp32", "auto", "bf16", "tf32"])
def test_tf32_is_on_where_it_is_asked_for_alone(precision, switches_kept):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    for before in (True, False):
        matmul.allow_tf32 = cudnn.allow_tf32 = before
        with devices.computing(precision, torch.device("cpu")):
            assert matmul.allow_tf32 == cudnn.allow_tf32 == (precision == "tf32")
        assert matmul.allow_tf32 == cudnn.allow_tf32 == before

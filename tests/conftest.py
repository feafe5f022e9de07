"""What the tests share: a small network, small data sets, commands called in process."""

import atexit
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.chdir(ROOT)
if "GUARD_TESTS" not in os.environ:  # else a process that a test has forked, which imports this again
    os.environ["GUARD_TESTS"] = os.environ["GUARD_CACHE"] = tempfile.mkdtemp(prefix="guard-tests-")
    atexit.register(shutil.rmtree, os.environ["GUARD_CACHE"], ignore_errors=True)
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # started in a shell's background the tests ignore it, and so would what they start
NEEDS_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def pytest_collection_modifyitems(items):
    """The toy run of the whole chain comes first, the fast files next."""
    items.sort(key=lambda item: (item.path.name != "test_toy_run.py", item.path.name))


@pytest.fixture(autouse=True)
def threads():
    """A command that is called in process may choose how many it takes; other numbers of them, other bits."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=NEEDS_A_GPU)])
def device(request):
    """Each device of the machine."""
    return torch.device(request.param)


@pytest.fixture
def network():
    """A small network with batch norm in float64, on normalized 8x8 images, with running statistics that
    are not trivial.
    """
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Softplus(),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
    ]
    made = nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(20, 3)).double()
    for _ in range(3):
        made(torch.randn(16, 3, 8, 8, dtype=torch.float64))
    return made


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 3, 8, 8, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])


def pixel_model(network, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), size=8):
    from guard.networks.models import PixelModel

    return PixelModel(network, mean, std, size).to(next(network.parameters()).dtype).eval()


def write_folder(
    root, name="toy", classes=("cat", "dog"), count=6, size=20, splits=("train", "val"), suffix="png", seed=0
):
    """ROOT/NAME/SPLIT/CLASS/*.png of coloured noise that tells the classes apart."""
    random = numpy.random.default_rng(seed)
    for split in splits:
        for label, class_name in enumerate(classes):
            folder = Path(root) / name / split / class_name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (size, size, 3), dtype=numpy.uint8)
                pixels[..., label % 3] += 120
                Image.fromarray(pixels).save(folder / f"{number}.{suffix}")
    return Path(root) / name


def command(module, *arguments):
    """Calls `python -m MODULE ARGUMENTS` in this process; returns its exit status."""
    package = importlib.util.find_spec(module).submodule_search_locations is not None
    main = importlib.import_module(f"{module}.__main__" if package else module).main
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code or 0
    finally:
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a command that was interrupted ignores what comes after
    return 0


@pytest.fixture
def refused(capsys):
    """refused(module, *arguments): the one line on stderr with which the command ends, after checking
    the form of that end.
    """

    def call(module, *arguments):
        capsys.readouterr()
        status = command(module, *arguments)
        printed = capsys.readouterr().err.strip().splitlines()
        lines = [line for line in printed if not line.startswith("note:")]
        assert status == 2, (status, printed)
        assert len(lines) == 1 and lines[0].startswith("error: "), printed
        return lines[0]

    return call


# What is compared bit by bit must not depend on the processor and its number of threads.
FP32 = ["--precision", "fp32"]
TOY = {
    "pretrain": [
        "--model",
        "convnet-32",
        "--image-size",
        "16",
        "--epochs",
        "2",
        "--batch-size",
        "4",
        "--curvature-images",
        "4",
        "--workers",
        "0",
        *FP32,
    ],
    "recover": ["--images-per-class", "2", "--iterations", "3", "--pack-images", "2", *FP32],
    "relabel": ["--epochs", "2", *FP32],
    "train": ["--model", "convnet-32", "--workers", "0", "--protocol", "quick", *FP32],
}


def toy_student(toy, *more):
    """Words of stage train on what the toy chain has made."""
    made_from = ["--teacher", toy / "teacher/checkpoint.pt", "--distilled", toy / "images"]
    data = ["--dataset", "toy", "--root", toy, *made_from, "--labels", toy / "labels"]
    return ["train", *data, *TOY["train"], *more]


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A finished toy chain over a folder data set of two classes: the folder with toy/ (data), teacher/,
    images/, labels/.
    """
    root = tmp_path_factory.mktemp("chain")
    write_folder(root)
    teacher = root / "teacher" / "checkpoint.pt"
    assert (
        command(
            "pretrain", "--dataset", "toy", "--root", root, "--output", root / "teacher", *TOY["pretrain"]
        )
        == 0
    )
    assert command("recover", "--teacher", teacher, "--output", root / "images", *TOY["recover"]) == 0
    assert (
        command(
            "relabel",
            "--teacher",
            teacher,
            "--distilled",
            root / "images",
            "--output",
            root / "labels",
            *TOY["relabel"],
        )
        == 0
    )
    return root

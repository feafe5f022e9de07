"""Rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import ROOT, write_folder

from guard import ending, registry
from guard.settings import STAGES

PACKAGES = ("data", "guard", "pretrain", "recover", "relabel", "train")
SOURCES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "raw" not in path.parts
)


def names_read(path):
    """Every attribute that is read in a file."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_setting_is_read_where_its_stage_works():
    """A field of a recipe, and so its flag, that no code reads would be a flag that does nothing."""
    read_in = {
        "pretrain": ("guard/method", "pretrain"),
        "relabel": ("guard", "relabel"),
        "evaluate": ("guard/attacks", "train"),
    }
    named_by_rows = {row.coefficient for row in registry.REGULARIZERS.values()}
    for stage, made in STAGES.items():
        text = "\n".join(
            path.read_text()
            for folder in read_in.get(stage, (stage,))
            for path in (ROOT / folder).rglob("*.py")
            if path.name != "recipes.py"
        )
        names = {
            node.attr
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id.endswith(("settings", "recipe"))
        }
        assert {row.name for row in fields(made)} <= names | named_by_rows, stage


def destination(call):
    """The name under which the options hold a flag."""
    named = [word.value.value for word in call.keywords if word.arg == "dest"]
    return (named or [call.args[0].value])[0].lstrip("-").replace("-", "_")


def test_every_other_flag_is_read():
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "add_argument"
        ]
        declared = {destination(call) for call in calls if isinstance(call.args[0], ast.Constant)}
        everywhere = (
            {name for other in SOURCES for name in names_read(other)}
            if path.name == "cli.py"
            else names_read(path)
        )
        assert declared <= everywhere, (path, declared - everywhere)


def imported(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_stages_import_guard_and_nothing_imports_a_stage(path):
    """But for the bench, which times the stages."""
    own = path.relative_to(ROOT).parts[0]
    if path.parent.name == "bench":
        return
    stages = {"pretrain", "recover", "relabel", "train", "data"} - {own}
    assert not {name.split(".")[0] for name in imported(path)} & stages


@pytest.mark.parametrize(
    "line, status",
    [
        ("pretrain --help", 0),
        ("recover --help", 0),
        ("relabel --help", 0),
        ("train --help", 0),
        ("train.evaluate --help", 0),
        ("train.judge --help", 0),
        ("guard.recipes --help", 0),
        ("guard.data.find --help", 0),
        ("guard.export --help", 0),
        ("guard.report --help", 0),
        ("data.prepare --help", 0),
        ("pretrain --dataset digits --output x --check", 0),
        ("recover --teacher t.pt --output x --check", 0),
        ("relabel --teacher t.pt --distilled d --output x --check", 0),
        ("train --dataset digits --teacher t.pt --distilled d --labels l --output x --check", 0),
        ("train.evaluate --dataset digits --checkpoint t.pt --check", 0),
        ("train.judge --dataset digits --distilled d --output x --check", 0),
        ("pretrain --dataset digits --output x --epochs none", 2),
        ("train.evaluate --dataset digits", 2),
    ],
)
def test_flags_need_no_torch(line, status):
    """Help, wrong flags and --check answer at once: torch is imported once the flags are found right."""
    done = without_packages(line)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr


def without_packages(line):
    """`python -m LINE` in a python that has none of the packages that the project needs."""
    module, *words = line.split()
    code = (
        f"import sys, runpy; sys.argv = ['x', *{words!r}]; sys.modules |= dict.fromkeys({ending.NEEDED});"
        f" runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "line",
    [
        "pretrain --dataset digits --output x",
        "recover --teacher t.pt --output x",
        "relabel --teacher t.pt --distilled d --output x",
        "train --dataset digits --teacher t.pt --distilled d --labels l --output x",
        "train.evaluate --dataset digits --checkpoint t.pt",
        "guard.report",
        "guard.export runs/24 --output x.pt",
        "guard.bench doctor",
    ],
)
def test_a_python_without_the_packages_is_told_in_one_line(line):
    done = without_packages(line)
    assert done.returncode == 2
    assert re.fullmatch(r"error: this python has no \w+; take run\.sh's: .*requirements\.txt\n", done.stderr)


def test_the_packages_that_are_told_are_those_of_the_requirements():
    named = {line.split("==")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    assert {"PIL" if name == "pillow" else name for name in named} == {*ending.NEEDED}


def test_ruff_is_content():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_shell_lines_are_as_short_as_python_lines():
    scripts = ["run.sh", "guard/environment.sh", "tests/run.sh", "results/reproduce.sh"]
    long = [
        f"{name}:{number}"
        for name in scripts
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        if len(line) > 110
    ]
    assert not long


def test_every_line_has_the_one_format():
    words = ["ruff", "format", "--no-cache", "--check", "."]
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_sitting(path):
    text = path.read_text()
    assert text.count("\n") <= 360
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 60, node.name


def test_nothing_needs_a_folder_outside_the_repository():
    for path in [*SOURCES, *(ROOT / "tests").rglob("*.py"), ROOT / "run.sh", ROOT / "README.md"]:
        assert "../sha" + "red" not in Path(path).read_text(), path


def test_output_that_nobody_reads_any_more_ends_a_command_quietly():
    """As in `bash results/reproduce.sh main -n | head -1`."""
    code = "from guard import ending; ending.run(lambda: [print('line', flush=True) for _ in range(100_000)])"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (141, "line\n", "")


# Who may import whom: each room only those before it (docs/architecture.md).
ROOMS = [
    "errors",
    "torchrun",
    "ending",
    "registry",
    "setting_fields",
    "settings",
    "earlier",
    "recipes",
    "cli",
    "run",
    "data",
    "networks",
    "method",
]
ROOMS += [
    "distilled",
    "attacks",
    "library",
    "export",
    "report",
    "paper",
    "bench",
    "launch",
    "command",
    "chain",
    "__main__",
    "guard",
]


def rooms_imported_at_the_top(path):
    """Rooms of guard that a file imports when it is loaded; what a function imports is its own matter."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "guard":
            names = (
                [alias.name for alias in node.names]
                if node.module == "guard"
                else [node.module.split(".")[1]]
            )
            yield from names


@pytest.mark.parametrize(
    "path", sorted((ROOT / "guard").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_rooms_import_only_rooms_before_them(path):
    place = path.relative_to(ROOT / "guard")
    room = place.parts[0] if len(place.parts) > 1 else place.stem.replace("__init__", "guard")
    allowed = {*ROOMS[: ROOMS.index(room)], room}
    assert set(rooms_imported_at_the_top(path)) <= allowed


def test_plots_need_no_network_library():
    code = "import sys, guard.report.plots; assert not {'torch', 'torchvision'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stage_of_a_convnet_begins_without_what_takes_as_long_as_torch_to_import():
    """Without torchvision, whose networks and data sets it may not need, and torch's compiler."""
    code = (
        "import sys, pretrain.teacher, recover.recovery, relabel.labelling, train.experiment;"
        "from guard.networks import models; from guard.run import devices, records;"
        "models.build('convnet', classes=10, image_size=32, stem='cifar', mean=(0,) * 3, std=(1,) * 3);"
        "records.environment(devices.ready('cpu'));"
        "print({'torchvision', 'torch._dynamo', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


def test_processes_that_decode_files_do_not_each_import_torchvision(tmp_path):
    """They are forked in every epoch, from one that has it."""
    files = sorted(map(str, write_folder(tmp_path, count=1).glob("train/*/*.png")))
    code = (
        "import sys, torch; from guard.data import images, loading; assert 'torchvision' not in sys.modules;"
        f"held = images.Streamed({files!r}, torch.tensor([0, 1]), ('cat', 'dog'));"
        "views = loading.ValidationBatches(held, batch_size=2, size=16);"
        "next(loading.batches(views, 1, torch.device('cpu'))); assert 'torchvision' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

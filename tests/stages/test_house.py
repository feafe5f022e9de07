"""Rules of the house that a machine can check."""

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import ROOT

from guard import registry
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
        "evaluate": ("train",),
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
    "module",
    [
        "pretrain",
        "recover",
        "relabel",
        "train",
        "train.evaluate",
        "guard.recipes",
        "guard.data.find",
        "data.prepare",
    ],
)
def test_flags_need_no_torch(module):
    """Help and wrong flags answer at once: torch is imported after the flags are known to be right."""
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']; sys.modules['torch'] = None\ntry:"
        f" runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\nexcept SystemExit as end:"
        " sys.exit(end.code if isinstance(end.code, int) or end.code is None else 3)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr


def test_ruff_is_content():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
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
    for path in [*SOURCES, *(ROOT / "tests").glob("*.py"), ROOT / "run.sh", ROOT / "README.md"]:
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

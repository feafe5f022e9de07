"""What README.md and docs/ name exists: links, pictures, files, flags, modules, warnings."""

import ast
import contextlib
import importlib.util
import io
import itertools
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT, command

from guard.attacks import checks

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

STAGES = ("pretrain", "recover", "relabel", "train")
MODULES = (
    *(*STAGES, "train.evaluate", "train.judge", "data.prepare"),
    *("guard.bench", "guard.export", "guard.launch", "guard.report"),
)
DATA_SETS = ("imagenette", "cifar10", "subset")  # data.prepare has a help for each
OTHERS_FLAGS = {"--nnodes", "--nproc-per-node", "--no-deps"}  # of torchrun and pip
FLAG = re.compile(r"(?<![\w/-])--?[A-Za-z][\w-]*")


# ---- what there is -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flags():
    """flags(program): the flags in its --help, program a module, 'run.sh' or 'reproduce.sh'; each help is
    printed once.
    """
    return cache(lambda program: flags_in(_help(program)))


def flags_in(text):
    """The flags that a help declares: those at the start of its lines."""
    lines = (line.strip() for line in text.splitlines() if line.startswith("  -"))
    return {flag for line in lines for flag in FLAG.findall(re.split(r"\s{2,}", line)[0])}


def _help(program):
    if program == "run.sh":
        done = subprocess.run(
            ["bash", "run.sh", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout
    if program == "data.prepare":
        return _printed("data.prepare", "--help") + "".join(
            _printed("data.prepare", name, "--help") for name in DATA_SETS
        )
    module = {"reproduce.sh": "guard.paper.reproduce"}.get(program, program)
    if importlib.util.find_spec(f"{module}.__main__" if _is_package(module) else module) is None:
        return ""
    return _printed(f"{module}.__main__" if _is_package(module) else module, "--help")


def _is_package(module):
    return importlib.util.find_spec(module).submodule_search_locations is not None


def _printed(module, *words):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert command(module, *words) == 0, (module, words)
    return output.getvalue()


# ---- what the pages name -------------------------------------------------------------------------


def code_of(text):
    """Lines of fenced blocks without a language (commands and what they print), and inline code outside all
    blocks.
    """
    lines, prose, language = [], [], None
    for line in text.splitlines():
        if line.startswith("```"):
            language = None if language is not None else line.strip("`").strip()
        elif language is None:
            prose.append(line)
        elif not language:
            lines.append(line)
    commands = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return commands + re.findall(r"`([^`\n]+)`", "\n".join(prose))


def program_of(words):
    """The program that a command line's words start: a module or the name of a script; None where it is none
    of ours.
    """
    for word, following in itertools.pairwise(words):
        if word == "bash":
            return Path(following).name
        if word == "-m" and words[0] in ("python", "torchrun"):
            return following
    return None


def flags_named(code):
    """(program or None, flag) of every flag in a piece of code; None for a flag that stands without a
    command.
    """
    words = re.sub(r"\$\(.*?\)", "", code).replace("[", " ").replace("]", " ")
    words = shlex.split(words.split("#")[0], posix=False)
    program, of_stages = program_of(words), False
    found = []
    for word in words:
        flag = word.split("=")[0]
        if program == "run.sh" and word == "--":
            of_stages = True
        elif of_stages and word in STAGES:
            program = word
        elif FLAG.fullmatch(flag):
            found.append((program, flag))
    return found


def slug(heading):
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def links_of(text):
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)


# ---- the tests -----------------------------------------------------------------------------------


def check_links(page, text):
    for link in links_of(text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page.name} links to {link}"


def check_flags(text, flags):
    everywhere = [*MODULES, "run.sh", "reproduce.sh"]
    for code in code_of(text):
        for program, flag in flags_named(code):
            if flag in OTHERS_FLAGS or (flag == "-m" and program != "run.sh"):
                continue
            known = [program] if program in everywhere else everywhere
            assert any(flag in flags(each) for each in known), (
                f"`{code}`: no {flag} in {program or 'any command'}"
            )


def check_commands(text):
    for module in re.findall(r"python -m ([a-z][\w.]*)", text):
        found = importlib.util.find_spec(module)
        assert found is not None, f"python -m {module}"
        if found.submodule_search_locations is not None and found.origin is not None:
            assert importlib.util.find_spec(f"{module}.__main__") is not None, f"python -m {module}"
    for path in re.findall(r"bash ([\w./-]+)", text):
        assert (ROOT / path).is_file(), f"bash {path}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_and_pictures_exist(page):
    check_links(page, page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_flags_exist(page, flags):
    check_flags(page.read_text(), flags)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_exist(page):
    check_commands(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_of_the_code_exist(page):
    for code in code_of(page.read_text()):
        if re.fullmatch(r"(guard|tests|results|pretrain|recover|relabel|train|data|docs)/[\w./*-]*", code):
            made_there = page.name == "extending.md" and f"File `{code}`" in page.read_text()
            there = list(ROOT.glob(code)) or code == "data/raw" or made_there
            assert there, f"{page.name} names {code}"


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("[a](docs/nosuch.md)", check_links),
        ("[a](docs/usage.md#nosuch)", check_links),
        ("![a](docs/pictures/nosuch.png)", check_links),
        ("`python -m recover --nosuch 3`", check_flags),
        ("`python -m recover --curvature`", check_flags),  # pretrain's
        ("`--nosuch`", check_flags),
        ("`-Q`", check_flags),
        ("```\nbash run.sh -p -Q\n```", check_flags),
        ("```\nbash run.sh -p -- relabel --epochs 3 train --lambda 3\n```", check_flags),
        ("```\npython -m pretrain -d digits \\\n    --nosuch 3\n```", check_flags),
        ("`bash results/reproduce.sh main --nosuch`", check_flags),
        ("`python -m guard.nosuch`", check_commands),
        ("`python -m guard.method`", check_commands),  # a package that is no program
        ("`bash nosuch.sh`", check_commands),
    ],
)
def test_what_does_not_exist_is_found(text, check, flags):
    arguments = {check_links: (README, text), check_flags: (text, flags), check_commands: (text,)}[check]
    with pytest.raises(AssertionError):
        check(*arguments)


def test_readme_is_one_page():
    assert len(README.read_text().splitlines()) <= 120


def test_readme_leads_to_every_page_and_every_page_leads_back():
    named = {link.partition("#")[0] for link in links_of(README.read_text())}
    for page in DOCS:
        assert f"docs/{page.name}" in named, page.name
        assert "../README.md" in links_of(page.read_text()), page.name


def test_every_flag_of_run_sh_is_in_usage(flags):
    usage = "\n".join(code_of((ROOT / "docs/usage.md").read_text()))
    assert flags("run.sh") <= {flag for line in usage.splitlines() for _, flag in flags_named(line)}


def warnings():
    """What an evaluation warns of: the constants of ORDER, and the longest fixed part of each sentence of
    its two checks.
    """
    found = {meaning for _, _, meaning in checks.ORDER}
    for node in ast.walk(ast.parse(Path(checks.__file__).read_text())):
        if isinstance(node, ast.FunctionDef) and node.name in ("check_model", "check_results"):
            for call in (each for each in ast.walk(node) if isinstance(each, ast.Call)):
                if getattr(call.func, "attr", "") == "append":
                    parts = [each.value for each in ast.walk(call) if isinstance(each, ast.Constant)]
                    texts = [part for part in parts if isinstance(part, str)]
                    found.add(max(texts, key=len).strip(" :"))
    return found - {""}


@pytest.mark.parametrize("text", sorted(warnings()))
def test_every_warning_of_an_evaluation_has_a_paragraph(text):
    page = " ".join((ROOT / "docs/attacks.md").read_text().split())
    assert text in page

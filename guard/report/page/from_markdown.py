"""The Markdown that this project writes, as HTML: headings, paragraphs, lists and tables."""

from itertools import groupby

from guard.report.page.markup import element, table


def html_of(lines):
    """Elements, from lines of Markdown as guard.paper.markdown makes them; each line may be several."""
    lines = "\n".join(lines).splitlines()
    return [made for kind, block in groupby(lines, _kind) for made in _blocks(kind, list(block))]


def _kind(line):
    starts = {"#": "heading", "- ": "list", "|": "table"}
    return next((kind for start, kind in starts.items() if line.startswith(start)), "text" if line else "")


def _blocks(kind, lines):
    if kind == "heading":
        return [element(f"h{level}", words) for level, words in map(_heading, lines)]
    if kind == "list":
        return [element("ul", *(element("li", line.removeprefix("- ")) for line in lines))]
    if kind == "table":
        header, rules, *rows = map(_cells, lines)
        words = [column for column, rule in enumerate(rules) if not rule.endswith(":")]
        return [table(header, rows, words)]
    return [element("p", " ".join(lines))] if kind == "text" else []


def _heading(line):
    words = line.lstrip("#")
    return len(line) - len(words), words.strip()


def _cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]

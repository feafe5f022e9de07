"""HTML in small pieces. What is put into an element is escaped, unless it is HTML already."""

import base64
from html import escape
from pathlib import Path

VOID = {"br", "img", "input", "link", "meta"}  # elements without an end
# A page may load nothing, from nowhere: its pictures, style and script are inside it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Markup(str):
    """Text that is HTML already."""


def markup(part):
    """Anything as HTML: Markup as it is, None as nothing, lists joined, all other text escaped."""
    if isinstance(part, Markup):
        return part
    if part is None:
        return Markup("")
    if isinstance(part, (list, tuple)):
        return Markup("".join(markup(each) for each in part))
    return Markup(escape(str(part)))


def element(name, /, *inside, **attributes):
    """One HTML element as Markup.

    inside: as of `markup`. attributes: class_="row" becomes class="row", data_sort=1 becomes
    data-sort="1"; None leaves one out, True writes its name alone.
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None:
            words.append(f'{key}="{escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{markup(inside)}</{name}>")


def page(title, *body):
    """A whole HTML document that needs no other file."""
    script = Path(__file__).with_name("page.js").read_text()
    style = Path(__file__).with_name("page.css").read_text()
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(style)),
    )
    content = element("body", element("main", *body), element("script", Markup(script)))
    return Markup(f"<!DOCTYPE html>\n{element('html', head, content, lang='en')}\n")


def data_uri(png):
    """The bytes of a PNG as an address that holds them."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def section(title, *inside):
    return element("section", element("h2", title), *inside)


def note(*inside):
    """A small line below or above a picture or table."""
    return element("p", *inside, class_="note")


def warnings(lines):
    """A box with one line for each warning, or nothing."""
    if not lines:
        return None
    title = "Warnings of the evaluation"
    items = [element("li", line) for line in lines]
    return element("aside", element("strong", title), element("ul", items), class_="warning")


def details(summary, *inside):
    return element("details", element("summary", summary), *inside)


class Cell:
    """A cell of a table whose order is that of a number, or of a text other than the one shown."""

    def __init__(self, shown, order):
        self.shown, self.order = shown, order


def table(header, rows, words=(0,), sortable=False, name=None):
    """A table in a box of its own that scrolls when it is too wide.

    rows: lists of texts, Markup or Cells. words: the columns that hold words; the others hold
    numbers, which stand to the right. sortable: by a click on a column's name; its head stays in sight.
    name: its id.
    """

    def cells(kind, row):
        for column, cell in enumerate(row):
            order = cell.order if isinstance(cell, Cell) else None
            shown = cell.shown if isinstance(cell, Cell) else cell
            yield element(kind, shown, class_=None if column in words else "number", data_order=order)

    head = element("thead", element("tr", *cells("th", header)))
    body = element("tbody", *(element("tr", *cells("td", row)) for row in rows))
    made = element("table", head, body, class_="sortable" if sortable else None, id=name)
    box = "scroll tall" if sortable else "scroll"
    return element("div", made, class_=box, tabindex="0", role="region", aria_label="table")

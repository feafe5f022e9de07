"""Charts as SVG: lines and points with their deviations, each with its numbers in its <title>.

Colours, fonts and sizes of text are the page's (page.css). A mark's own colour is the variable --mark.
"""

import math
from dataclasses import dataclass

from guard.report.page.markup import element

WIDTH, HEIGHT = 440, 320  # units of a chart, which is drawn as wide as its column of the page
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 46  # margins
RADIUS = 5
LIMITS = 0, 100  # no deviation is drawn beyond these, where no accuracy in percent can be


@dataclass(frozen=True)
class Point:
    """x, y: (value, deviation or None). text: shown on hover. link: where a click leads, or None.
    kind: one of MARKS. size: radius of the mark against the usual one.
    """

    x: tuple
    y: tuple
    text: str
    colour: str | None = None
    kind: str = "disc"
    link: str | None = None
    series: str | None = None
    size: float = 1.0


@dataclass(frozen=True)
class Line:
    """places: (x, y) that a line joins. points: the marks on it."""

    places: list
    points: list
    colour: str | None = None
    series: str | None = None


def ticks(low, high, about=5):
    """Round numbers from at most `low` to at least `high`, about so many, evenly apart: whole ones where both
    are ints, as epochs are.
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= about)
    if isinstance(low, int) and isinstance(high, int):
        step = max(round(step), 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


class Frame:
    """The axes of a chart. across, up: values that have to fit in; names: what the axes show."""

    def __init__(self, across, up, names):
        self.across, self.up = ticks(min(across), max(across)), ticks(min(up), max(up))
        self.names = names

    def x(self, value):
        low, high = self.across[0], self.across[-1]
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 2)

    def y(self, value):
        low, high = self.up[0], self.up[-1]
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 2)

    def axes(self):
        """Grid, numbers and names."""
        left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
        for value in self.across:
            x = self.x(value)
            yield element("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid")
            yield element("text", f"{value:.6g}", x=x, y=bottom + 18, text_anchor="middle")
        for value in self.up:
            y = self.y(value)
            yield element("line", x1=left, x2=right, y1=y, y2=y, class_="grid")
            yield element("text", f"{value:.6g}", x=left - 7, y=y + 4, text_anchor="end")
        across, up = self.names
        x, y = (left + right) / 2, (top + bottom) / 2
        yield element("text", across, x=x, y=HEIGHT - 6, text_anchor="middle", class_="axis")
        turned = f"translate(13 {y:.6g}) rotate(-90)"
        yield element("text", up, transform=turned, text_anchor="middle", class_="axis")


def _disc(x, y, radius):
    return element("circle", cx=x, cy=y, r=radius)


def _polygon(*corners):
    """A function that draws the corners (in radii from the middle) around a place."""

    def draw(x, y, radius):
        places = " ".join(f"{x + radius * right:.6g},{y + radius * down:.6g}" for right, down in corners)
        return element("polygon", points=places)

    return draw


MARKS = {
    "disc": _disc,
    "ring": _disc,  # open, as page.css draws it
    "triangle": _polygon((0, -1.25), (1.15, 0.8), (-1.15, 0.8)),
    "square": _polygon((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "diamond": _polygon((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
    "felt": _disc,  # not seen: a place to hover over
}


def _ends(value, deviation):
    """From where to where a value's deviation reaches."""
    low, high = LIMITS
    reach = deviation or 0
    return max(value - reach, min(value, low)), min(value + reach, max(value, high))


def mark(point, frame):
    """A point with its deviations as thin lines, its text and its link."""
    x, y = frame.x(point.x[0]), frame.y(point.y[0])
    parts = [element("title", point.text)]
    if point.x[1]:
        left, right = map(frame.x, _ends(*point.x))
        parts.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="deviation"))
    if point.y[1]:
        bottom, top = map(frame.y, _ends(*point.y))
        parts.append(element("line", x1=x, x2=x, y1=bottom, y2=top, class_="deviation"))
    parts.append(MARKS[point.kind](x, y, round(RADIUS * point.size, 2)))
    style = f"--mark: {point.colour}" if point.colour else None
    drawn = element("g", parts, class_=f"mark {point.kind}", style=style, data_series=point.series)
    return element("a", drawn, href=point.link, aria_label=point.text) if point.link else drawn


def _reach(points, axis):
    """The smallest and largest values that the points and their deviations need."""
    ends = [_ends(*getattr(point, axis)) for point in points]
    return min(low for low, _ in ends), max(high for _, high in ends)


def scatter(points, names, label, equal=False):
    """Points on axes that begin and end where they do. equal: with a dotted line where y is x."""
    frame = Frame(_reach(points, "x"), _reach(points, "y"), names)
    low = max(frame.across[0], frame.up[0])
    high = min(frame.across[-1], frame.up[-1])
    dotted = None
    if equal and low < high:
        ends = {"x1": frame.x(low), "x2": frame.x(high), "y1": frame.y(low), "y2": frame.y(high)}
        dotted = element("line", **ends, class_="equal")
    return _svg(label, *frame.axes(), dotted, *(mark(point, frame) for point in points))


def lines(series, names, label, up=()):
    """Lines with their marks. up: values that the upward axis has to hold besides, such as 0."""
    points = [point for line in series for point in line.points]
    across = [x for line in series for x, _ in line.places]
    heights = [y for line in series for _, y in line.places]
    frame = Frame(across, (*heights, *_reach(points, "y"), *up), names)
    drawn = []
    for line in series:
        places = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in line.places)
        style = f"--mark: {line.colour}" if line.colour else None
        drawn.append(element("polyline", points=places, class_="curve", style=style, data_series=line.series))
        drawn += [mark(point, frame) for point in line.points]
    return _svg(label, *frame.axes(), *drawn)


def _svg(label, *inside):
    return element("svg", *inside, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="group", aria_label=label)


def chart(caption, drawn):
    """A chart with its caption above it."""
    return element("figure", element("figcaption", caption), drawn)


def key(point):
    """The mark of a point for a legend."""
    style = f"--mark: {point.colour}" if point.colour else None
    drawn = element("g", MARKS[point.kind](7, 7, RADIUS), class_=f"mark {point.kind}", style=style)
    return element("svg", drawn, viewBox="0 0 14 14", aria_hidden="true")

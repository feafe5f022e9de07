"""What a long stage shows while it works: a bar on a terminal, a few lines elsewhere."""

import sys
import time

import torch
from tqdm import tqdm

from guard.run import processes
from guard.run.stage import duration

LINES = 24  # of one bar's work away from a terminal: with its first and last, a stage stays below 30
SETTLED = (
    3.0  # seconds after which the speed of the work is known well enough to say how long all of it takes
)


class Progress:
    """A tqdm bar with the numbers that matter on a terminal; elsewhere at most `lines` lines.

    total: steps of the whole work, of which `start` were done before. about: words on what will be done. They
    are the first line, as soon as it is known about how long the work takes.
    """

    def __init__(self, title, total, unit, start=0, *, about="", lines=LINES):
        first = processes.rank() == 0
        self.shown = sys.stdout.isatty() and sys.stderr.isatty() and first
        self.told = not self.shown and first  # in lines
        self.title, self.total, self.start, self.about, self.lines = title, total, start, about, lines
        self.count, self.began, self.printed, self.last = 0, time.monotonic(), 0, 0.0
        self.warm = None  # seconds and steps at the end of the first step, which takes longer than others
        if self.shown and about:
            self._announce("")
        self.bar = tqdm(
            total=total,
            initial=start,
            desc=title,
            unit=unit,
            disable=not (self.shown and total),
            dynamic_ncols=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.about and self.told and kind is None:
            self._announce("")
        self.bar.close()

    def step(self, count=1, **numbers):
        """Moves the bar; numbers may be tensors, whose means are taken and read when the bar is shown."""
        self.count += count
        if self.warm is None:
            self.warm = self._elapsed(), self.count
        if self.shown:
            values = {
                name: float(torch.as_tensor(value).detach().double().mean())
                for name, value in numbers.items()
            }
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)
            self.bar.update(count)
        elif self.about and self.told and self._elapsed() - self.warm[0] > SETTLED and self._remaining():
            self._announce(f"; about {duration(self._elapsed() + self._remaining())}")

    def line(self, text):
        """Where no bar is shown: the text, and the time that is left. Most are left out.

        The first and the last are printed, and between them so many that they stand evenly in time.
        """
        if not self.told:
            return
        if self.about:
            self._announce("")
        now, remaining = self._elapsed(), self._remaining()
        last = self.start + self.count >= self.total
        apart = (now + remaining) / max(self.lines - 2, 1)
        due = self.printed == 0 or now - self.last >= apart
        if last or (due and self.printed < self.lines - 1):
            left = f", {tqdm.format_interval(remaining)} left" if remaining else ""
            print(f"{self.title}: {text}{left}", flush=True)
            self.printed, self.last = self.printed + 1, now

    def _announce(self, time_needed):
        print(f"{self.title}: {self.about}{time_needed}", flush=True)
        self.about = ""

    def _elapsed(self):
        return time.monotonic() - self.began

    def _remaining(self):
        """Seconds that are left at the speed since the first step; 0 where nothing is known or left."""
        left = self.total - self.start - self.count
        if left <= 0 or not self.count:
            return 0.0
        seconds, steps = self.warm
        if self.count == steps:  # all that is known yet
            return seconds * left / steps
        return (self._elapsed() - seconds) * left / (self.count - steps)

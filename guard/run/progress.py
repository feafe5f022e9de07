"""What a long stage shows while it works."""

import sys
import time

import torch
from tqdm import tqdm

from guard.run import processes


class Progress:
    """A tqdm bar with the numbers that matter on a terminal; elsewhere the lines given to `line`."""

    def __init__(self, title, total, unit, start=0):
        self.shown = sys.stdout.isatty() and sys.stderr.isatty() and processes.rank() == 0
        self.lines = not self.shown and processes.rank() == 0
        self.title, self.total, self.start, self.count, self.began = title, total, start, 0, time.monotonic()
        self.bar = tqdm(
            total=total, initial=start, desc=title, unit=unit, disable=not self.shown, dynamic_ncols=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def step(self, count=1, **numbers):
        """Moves the bar; numbers may be tensors, which are only read when the bar is shown."""
        self.count += count
        if self.shown:
            self.bar.set_postfix(
                {name: f"{float(torch.as_tensor(value).detach()):.4g}" for name, value in numbers.items()},
                refresh=False,
            )
            self.bar.update(count)

    def line(self, text):
        """Where no bar is shown: the text, and the time that is left."""
        if self.lines:
            remaining = self.total - self.start - self.count
            left = (
                f", {tqdm.format_interval((time.monotonic() - self.began) * remaining / self.count)} left"
                if remaining > 0 and self.count
                else ""
            )
            print(f"{self.title}: {text}{left}", flush=True)

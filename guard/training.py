"""What the teacher's and the student's loops share: schedule, gradients over processes, accuracy, going
on after a stop, progress.
"""

import hashlib
import json
import math
import sys
import time

import torch
from tqdm import tqdm

from guard import checkpoint, device, images
from guard.errors import UserError, first_line


def cosine(step, steps):
    """The factor of a cosine schedule from 1 to 0: (1 + cos(pi step / steps)) / 2."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def set_learning_rate(optimizer, learning_rate):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def share_of(loss, count, batch_size):
    """What a process differentiates of a mean loss over its `count` images of a batch, so that all
    processes' gradients add up to the batch's.

    Weighted before and not after it is differentiated, since behind synchronized batch norm a process's
    gradients are those of the others' losses as well; for the same reason a process without images has a
    loss, zero, with a graph.
    """
    return loss * (count / batch_size) if count else 0 * loss.nan_to_num()


def add_gradients(model):
    """Makes every process's gradients those of the sum of all their losses (see share_of)."""
    if device.world_size() == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients):
        parameter.grad = gradient  # a process without images has none of its own
    together = device.sum_over_processes(torch.cat([g.flatten() for g in gradients]))
    for gradient, summed in zip(gradients, together.split([g.numel() for g in gradients])):
        gradient.copy_(summed.view_as(gradient))


@torch.no_grad()
def average_statistics(model):
    """Makes every process's batch-norm statistics their mean; called after each epoch, so that a state
    saved then is everybody's.
    """
    if device.world_size() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                device.sum_over_processes(buffer).div_(device.world_size())


@torch.no_grad()
def accuracy(model, held, size, *, workers, where, batch_size=256):
    """Percent of images that `model`, in eval mode, gets right in the validation view of `size` pixels;
    then back to its mode.
    """
    training = model.training
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=where)
    for pixels, labels in images.batches(
        images.ValidationBatches(held, batch_size=batch_size, size=size), workers, where
    ):
        right += (model(pixels).argmax(1) == labels).sum()
    model.train(training)
    return 100 * right.item() / len(held)


class Resume:
    """The state of an unfinished training, beside its checkpoint, at most `seconds` old at an epoch's
    end.

    `key` holds all that decides the result; a state with another key is somebody else's and is refused.
    Randomness needs no saving: it depends on (seed, epoch, batch).
    """

    def __init__(self, path, key, force=False, seconds=60):
        self.path, self.seconds, self.saved = path, seconds, time.monotonic()
        self.began = self.saved
        self.key = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        if force and device.rank() == 0:
            checkpoint.remove(path)
        device.barrier()

    def restore(self, model, optimizer):
        """Puts the saved state in place; returns (epochs done, history). Raises UserError for a damaged
        state and for somebody else's.
        """
        if not self.path.exists():
            return 0, []
        remedy = "remove it, or start again with --force (-f in run.sh)"
        state = checkpoint.read(self.path, remedy)
        missing = (
            [
                name
                for name in ("key", "epoch", "model", "optimizer", "history", "elapsed")
                if name not in state
            ]
            if isinstance(state, dict)
            else ["everything"]
        )
        if missing:
            raise UserError(f"{self.path} is no unfinished training, it lacks {', '.join(missing)}; {remedy}")
        if state["key"] != self.key:
            raise UserError(
                f"{self.path} is an unfinished training with other settings; choose another folder, or"
                " --force (-f in run.sh) to start again"
            )
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            self.began -= state["elapsed"]
            if len(state["history"]) != state["epoch"]:
                raise ValueError("its history is not of its epochs")
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as problem:
            raise UserError(
                f"{self.path} is no state of this training ({first_line(problem)}); {remedy}"
            ) from None
        print(f"going on after epoch {state['epoch']} ({self.path})", flush=True)
        return state["epoch"], state["history"]

    def elapsed(self):
        """Seconds of training, those before a stop included."""
        return time.monotonic() - self.began

    def save(self, epoch, model, optimizer, history):
        """Called after each epoch; writes when the last state is older than `seconds`."""
        if device.rank() == 0 and time.monotonic() - self.saved >= self.seconds:
            state = {
                "key": self.key,
                "epoch": epoch,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": history,
                "elapsed": self.elapsed(),
            }
            checkpoint.save(state, self.path)
            self.saved = time.monotonic()

    def done(self):
        checkpoint.remove(self.path)


class Progress:
    """A tqdm bar with the numbers that matter on a terminal; elsewhere the lines given to `line`."""

    def __init__(self, title, total, unit, start=0):
        self.shown = sys.stdout.isatty() and sys.stderr.isatty() and device.rank() == 0
        self.lines = not self.shown and device.rank() == 0
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

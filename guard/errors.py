"""The one exception for what a user can mend."""


class UserError(ValueError):
    """Something the user can mend: its text says what is wrong and, after a semicolon, what to do.

    Every stage turns it into one line on stderr and exit status 2 (guard.ending.run).
    """


def first_line(problem):
    """What another library's exception says, short enough to stand within a UserError."""
    return (str(problem).splitlines() or [type(problem).__name__])[0][:120]


def printable(text):
    """A text as one line that a terminal shows as it is: names of files and classes may hold line breaks
    and control characters.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def single_image(problem):
    """Whether an exception is torch's that batch norm was given a single image of a single position."""
    return "Expected more than 1 value per channel when training" in str(problem)


def out_of_memory(problem):
    """Whether an exception is torch's that there is no memory left, on a GPU or on the CPU. Told by its
    name, as torch may not be imported.
    """
    return type(problem).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(problem)


WORKER = (
    "a process that decodes images was ended, perhaps since memory ran out; give the same command again, with"
    " fewer --workers"
)


def worker_ended(problem):
    """Whether an exception is torch's that a data loader's process was ended, which a signal raises in the
    midst of anything.
    """
    return "DataLoader worker (pid" in str(problem)

"""One setting of a stage: a dataclass field with its help text and limits, and those that stages share."""

from dataclasses import field

PRECISIONS = ("auto", "fp32", "tf32", "bf16")


def setting(
    default,
    text,
    *,
    unit="",
    choices=None,
    names=None,
    low=None,
    high=None,
    above=None,
    below=None,
    flag=None,
    several=False,
    of=None,
    before=None,
):
    """A field: its default, help text and unit, and what is allowed.

    Allowed is a closed set (`choices`), or some names with commas between them (`names`: of what, and which
    there are), or low <= value <= high, or above < value < below. With `several`, numbers with commas between
    them make a tuple. of: the image method that reads it, or a tuple of them; None where it
    counts for all. before: what artifacts count as made with that are older than the field; where it is None
    they count as made with the field's default, and a family's row may have another.
    """
    metadata = {
        "text": text,
        "unit": unit,
        "choices": choices,
        "names": names,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "flag": flag,
        "several": several,
        "of": (of,) if isinstance(of, str) else of,
        "before": before,
    }
    return field(default=default, metadata=metadata)


def precision():
    """The setting that every stage with a network of its own to run has; evaluation is always in fp32."""
    return setting(
        "auto",
        "arithmetic of the networks: fp32; tf32, on GPUs that have it; bf16, by autocast; auto: bf16 with"
        " channels-last on CPUs that have instructions for it, else fp32",
        choices=PRECISIONS,
        before="fp32",
    )


def val_images():
    """The setting of the stages that train, whose networks are measured meanwhile and at the end."""
    return setting(
        0,
        "measure accuracy, and curvature, on the first N images of val of each class alone; 0 for all",
        unit="images",
        low=0,
    )


def flip():
    """The setting of the stages that look at views: pretrain, recover by crops, relabel, and train by DSA."""
    return setting(
        True,
        "mirror half of the images where crops or --dsa do so; off for what a mirror makes another thing of,"
        " such as a digit",
    )


def channels_last():
    return setting(
        False,
        "keep the colour channels of a pixel beside each other in memory, which some machines compute faster",
    )


def compiled():
    return setting(
        False,
        "let torch.compile fuse the network's operations: takes a C++ compiler on the CPU, and some minutes"
        " at the start",
    )


def graphs():
    return setting(
        "auto",
        "on a GPU: start each step as one CUDA graph (auto), or operation by operation (off)",
        choices=("auto", "off"),
    )


def synced_norm():
    return setting(
        False, "with several processes: batch norm over the whole batch instead of over each process's share"
    )

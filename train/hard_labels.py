"""Flags of students without a teacher, on the images' own labels, hard ones as a rule; they have one loss."""

from dataclasses import replace

from guard import cli
from guard.registry import STUDENT_LOSSES
from guard.settings import STEMS

# What says something of a teacher's labels.
OF_SOFT_LABELS = {
    *("--loss", "--temperature", "--squared-temperature", "--reuse-labels", "--gradient-weight"),
    *("--views-against", "--teacher-mode", "--input-gradients", "--label-format", "--top-classes"),
}


def add_flags(parser, when=""):
    """What images from elsewhere need. when: words before each help text."""
    parser.add_argument(
        "--image-size",
        type=cli.number(int, low=8),
        metavar="N",
        help=f"{when}side of the images, pixels [the recipe's]",
    )
    parser.add_argument(
        "--stem",
        choices=STEMS,
        help=f"{when}first layers of a ResNet; cifar for small images [the recipe's]",
    )
    parser.add_argument(
        "--clamp",
        action="store_true",
        help=f"{when}cut off what lies outside [0,1] in a file, instead of refusing it",
    )
    parser.add_argument(
        "--soft-labels",
        action="store_true",
        help=f"{when}learn a file's own soft labels, instead of the largest of each",
    )


def of_images(options):
    """What was given by these flags, by the names of train.inputs.without_teacher."""
    given = {"image_size": options.image_size, "stem": options.stem, "clamp": options.clamp}
    return {**given, "soft_labels": options.soft_labels}


def as_settings(settings):
    """settings.Train of a student on them, whatever its loss was."""
    return replace(settings, loss="cross-entropy")


def check_dsa(parser, settings):
    """Ends with one line where a student by `settings` (settings.Train) has what does not go with DSA."""
    if not settings.dsa:
        return
    if STUDENT_LOSSES[settings.loss].reads_teacher or settings.gradient_weight:
        parser.error(
            "--dsa shows what the teacher has not seen, so it goes with a loss of hard labels alone, such as"
            " cross-entropy"
        )
    if settings.adversarial_share:
        parser.error("--dsa leaves [0,1], where adversarial views stay; add --no-dsa to --adversarial-share")


def unread(parser, options):
    """The flags that were given and say something of soft labels."""
    given = [flag for stage in ("train", "relabel") for flag in cli.given_flags(parser, options, stage)]
    return [flag for flag in given if flag in OF_SOFT_LABELS]

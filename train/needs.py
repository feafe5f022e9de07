"""What a student needs of its soft labels."""

from guard import cli, ending
from guard.errors import UserError

# What of the teacher's input gradients is needed -> what labels may have of them.
SERVES = {"none": ("none", "signs", "values"), "signs": ("signs", "values"), "values": ("values",)}


def enough_epochs(asked, labelled, reuse):
    """Whether a student of `asked` epochs, None for all, has labels for them or may `reuse` them."""
    return reuse or not asked or asked <= labelled


def check_gradients(settings, stored):
    """Raises UserError where the labels lack what a student by `settings` (settings.Train) needs of the
    teacher's input gradients, or the student cannot be differentiated twice. stored: 'none', 'signs' or
    'values', what the labels have of them.
    """
    if settings.compile and settings.gradient_weight:
        raise UserError("--compile cannot differentiate twice, which --gradient-weight needs; leave one out")
    needed, flag = "none", ""
    if settings.adversarial_share and settings.views_against == "teacher":
        needed, flag = "signs", "--views-against teacher"
    if settings.gradient_weight:
        needed, flag = "values", "--gradient-weight"
    if stored not in SERVES[needed]:
        raise UserError(
            f"{flag} needs labels with the teacher's input gradients; make them with --input-gradients"
            f" {needed} of python -m relabel"
        )


def check(relabel, train):
    """Ends the process with one line where the labels of one command are not what the other needs. Both are
    lists of flags, as run.sh gives them.
    """
    options = {
        "relabel": cli.stage_options("relabel", relabel, "--output"),
        "train": cli.stage_options("train", train, "--labels"),
    }
    if options["train"].labels != options["relabel"].output:
        return  # they are made online, say

    def work():
        labels, student = (cli.resolve(options[stage], options[stage].dataset, stage) for stage in options)
        asked = options["train"].epochs
        if not enough_epochs(asked, labels.epochs, student.reuse_labels):
            raise UserError(
                f"relabel is to make labels for {labels.epochs} epochs, and train asks for {asked}; give both"
                " the same, by -z, or have train go through them again with --reuse-labels"
            )
        check_gradients(student, labels.input_gradients)

    ending.run(work)

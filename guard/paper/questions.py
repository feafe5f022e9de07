"""What the records are asked: which student stands beside which other, from which it differs in one thing.
Only the names of arms are read here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from guard.paper.arms import (
    BY_RECIPE,
    BY_TEACHER,
    CURVATURE,
    DC,
    DC_OF_100,
    DIGITS,
    FRONTIER,
    HARD,
    HARD_LABELS,
    HARD_RECOVERED,
    IMAGE_METHODS,
    METHODS,
    RESNET18,
)
from guard.paper.groups import PLAIN, ROBUST

OF_PUBLISHED_METHODS = {*METHODS, *RESNET18, *DC, *DC_OF_100}
OF_ALL_IMAGES = {
    *FRONTIER,
    *BY_RECIPE,
    *CURVATURE,
}  # METHOD/TEACHER[/adversarial|/paper], and settings of them
BATCH = "curvature-batch"  # in place of the image method, which is random
ADVERSARIAL = "nfgsm"
ADVERSARIAL_VIEWS = "adversarial"


@dataclass(frozen=True)
class Question:
    """beside: from the name of an arm that of the arm it is compared with, or None. students, others: who is
    compared with whom, as a sentence says it.
    """

    title: str
    students: str
    others: str
    beside: Callable


def plain_beside(arm):
    """The arm of a plain teacher that an arm of another stands beside, or None: that with images by the same
    method, the same recipe, and the same views of the student.
    """
    if arm in OF_PUBLISHED_METHODS:
        return _another(arm, arm.replace("+guard", "").replace(ROBUST, PLAIN))
    if arm in BY_TEACHER:
        return _another(arm, "cda" if arm.startswith("cda") else PLAIN)
    if arm in DIGITS:
        return None if DIGITS[arm].labels == HARD_LABELS else _of_digits(arm, labels="plain")
    method, _, *rest = _parts(arm)
    return _another(arm, "/".join([method, "plain", *rest])) if method else None


def random_beside(arm):
    """The arm of random real images with the same kind of labels, or None."""
    if arm in OF_PUBLISHED_METHODS:
        method, recipe = arm.split("/")
        guard = "+guard" if ROBUST in method and recipe != "dc" else ""  # recipe dc has hard labels
        if method.startswith("random"):
            return None
        if method.endswith("-resnet18"):
            return f"random{guard}-resnet18/{recipe}"
        return f"random-{'in' if method.startswith('dc') else '20'}{guard}/{recipe}"
    if arm in DIGITS:
        return _of_digits(arm, images="random")
    if _plain_views(arm) == HARD_RECOVERED:
        return arm.replace(HARD_RECOVERED, HARD)
    if arm not in {*FRONTIER, *BY_RECIPE}:
        return None
    return _another(arm, "/".join(["random", *arm.split("/")[1:]]))


def adversarial_beside(arm):
    """The arm of the one-step adversarial teacher that an arm of a regularized one stands beside, or None."""
    if arm in BY_TEACHER:
        of_regularizers = arm.startswith((ROBUST, "gr-"))
        return ADVERSARIAL if of_regularizers else None
    if arm in DIGITS:
        return _of_digits(arm, labels=ADVERSARIAL) if DIGITS[arm].labels.startswith(ROBUST) else None
    method, teacher, *rest = _parts(arm)
    if not method or teacher == "plain":
        return None
    return _another(arm, "/".join([method, ADVERSARIAL, *rest]))


def running_beside(arm):
    """The arm whose penalty is taken by running statistics where that of this one is by the mini-batch's, or
    None.
    """
    if arm in {*BY_TEACHER, *DIGITS}:
        return _another(arm, arm.removesuffix("-batch"))
    first, _, teacher = arm.partition("/")
    return f"random/{teacher}" if first == BATCH else None


def views_beside(arm):
    """The arm whose student sees plain views where that of this one sees adversarial ones, or None."""
    of_views = {*FRONTIER, *DIGITS, *(f"{hard}/{ADVERSARIAL_VIEWS}" for hard in (HARD, HARD_RECOVERED))}
    return _another(arm, _plain_views(arm)) if arm in of_views else None


def hard_beside(arm):
    """The arm of the same real images and views with hard labels, where this one's come from a teacher, or
    None.
    """
    views = arm.removeprefix(_plain_views(arm))
    if arm in DIGITS:
        return _of_digits(arm, labels=HARD_LABELS) if DIGITS[arm].images == "random" else None
    method, _, *rest = _parts(arm)
    return f"{HARD}{views}" if method == "random" and "paper" not in rest else None


def by_both_recipes():
    """(arm by the paper's recipe, the same by `modern`) of each teacher but plain ones."""
    pairs = [(arm, arm.removesuffix("/paper")) for arm in BY_RECIPE]
    pairs += [(arm, arm.replace("/paper", "/modern")) for arm in (*METHODS, *RESNET18) if "/paper" in arm]
    return [pair for pair in pairs if plain_beside(pair[0])]


def _parts(arm):
    """Image method, teacher, and what else there is; the method None where an arm is none of these, or one of
    the settings of curvature, which have a table of their own.
    """
    first, teacher, *rest = arm.split("/") if arm in OF_ALL_IMAGES else (None, None)
    if first == BATCH:
        return "random", teacher, *rest
    return (first, teacher, *rest) if first in IMAGE_METHODS else (None, None)


def _of_digits(arm, **changed):
    """The name of the digits' arm that differs from `arm` in what is given; None where that is this one."""
    return _another(arm, replace(DIGITS[arm], **changed).arm)


def _plain_views(arm):
    """What an arm of adversarial views is called without them; the name of any other."""
    return arm.removesuffix(f"/{ADVERSARIAL_VIEWS}").removesuffix(f"+{ADVERSARIAL_VIEWS}")


def _another(arm, beside):
    return beside if beside != arm else None


QUESTIONS = (
    Question(
        "Does the teacher's training help the student?",
        "students of a regularized or adversarially trained teacher",
        "those of a plain one",
        plain_beside,
    ),
    Question(
        "Are recovered or chosen images better than random ones?",
        "students of recovered or chosen images",
        "those of random real images with labels of the same kind, hard or of a teacher",
        random_beside,
    ),
    Question(
        "Does a regularizer beat a one-step adversarial teacher, or add to it?",
        "students of a teacher with a curvature or gradient regularizer, alone or beside N-FGSM,",
        "those of N-FGSM",
        adversarial_beside,
    ),
    Question(
        "What do the mini-batch's statistics inside the penalty change?",
        "students of a teacher whose penalty is taken by the mini-batch's statistics",
        "those of one whose penalty is taken by running statistics, as published",
        running_beside,
    ),
    Question(
        "Do a student's own adversarial views help?",
        "students of adversarial views",
        "those of plain views",
        views_beside,
    ),
    Question(
        "Do labels of a teacher beat hard ones?",
        "students of random real images with the labels of a teacher",
        "those of the same images and views with hard labels, whom no teacher helps",
        hard_beside,
    ),
)

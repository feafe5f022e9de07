"""The arms of the tables: how a teacher is trained, where images come from, what a student sees. Only the
standard library.

A new arm is one row of ARMS. Flags are written as one would type them.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Arm:
    """How a teacher is trained and images are recovered from it.

    teacher: part of the teacher's id; flags: of run.sh; stages: more flags of the stages, each after its
    stage's name.
    """

    teacher: str
    flags: str = ""
    stages: str = ""


def _arms_of(name, flag, *values):
    """GUARD with one flag of run.sh changed, which changes its teacher."""
    return {f"guard-{name}-{value}": Arm(f"guard-{name}-{value}", f"-C {flag} {value}") for value in values}


# How the teacher is trained, behind SRe2L's images without and with CDA
BY_TEACHER = {
    "sre2l": Arm("plain"),
    "guard": Arm("guard", "-C"),
    "guard-batch": Arm("guard-batch", "-C", "pretrain --curvature-statistics batch"),
    "guard-squared": Arm("guard-squared", "-C", "pretrain --regularizer gradient-squared --lambda 0.03"),
    "guard-loss": Arm("guard-loss", "-C -B 1", "pretrain --regularizer loss"),
    **{
        f"gr-{beta}": Arm(f"gr-{beta}", f"-G -B {beta}")
        for beta in ("1e-4", "1e-3", "1e-2", "0.1", "1", "30")
    },
    "adv-t": Arm("adv-t", "-v t"),
    "adv-f": Arm("adv-f", "-v f -h 8/255"),  # its epsilon; the published one is not known
    "nfgsm": Arm("nfgsm", "-v n", "pretrain --epsilon 12/255"),  # that of the digits' attacks
    "cda": Arm("plain", "-A"),
    "cda+guard": Arm("guard", "-A -C"),
}
ARMS = {**BY_TEACHER}  # all of them, by name

# The digits' students: where images come from, whose labels, what the student sees. Hard labels come from no
# teacher; adversarial views are within the epsilon of the attacks.
HARD_LABELS = "hard"


@dataclass(frozen=True)
class OfDigits:
    """images: sre2l or random; labels: hard, or the teacher's name; adversarial: what the student sees."""

    images: str
    labels: str
    adversarial: bool

    @property
    def arm(self):
        """Its name: that of the teacher where images are recovered and views plain."""
        recovered = self.images == "sre2l"
        by_labels = {"plain": self.images, HARD_LABELS: f"{self.images}-{HARD_LABELS}"}
        name = by_labels.get(self.labels, self.labels if recovered else f"{self.images}+{self.labels}")
        return f"{name}+adversarial" if self.adversarial else name


def _arm_of_digits(of):
    """The Arm of an OfDigits."""
    of_teacher = BY_TEACHER["sre2l" if of.labels in ("plain", HARD_LABELS) else of.labels]
    images = "-I random" if of.images == "random" else ""
    views = "train --adversarial-share 1 --view-epsilon 12/255" if of.adversarial else ""
    loss = "train --loss cross-entropy" if of.labels == HARD_LABELS else ""
    stages = (of_teacher.stages, views, loss)
    return Arm(of_teacher.teacher, f"{images} {of_teacher.flags}".strip(), " ".join(filter(None, stages)))


_DIGITS = [
    OfDigits(images, labels, adversarial)
    for images in ("sre2l", "random")
    for adversarial in (False, True)
    for labels in ("plain", "guard", "guard-batch", "nfgsm", HARD_LABELS)
    if not (adversarial and labels == "guard-batch")
]
DIGITS = {of.arm: of for of in _DIGITS}
ARMS |= {name: _arm_of_digits(of) for name, of in DIGITS.items()}

# GUARD with one setting changed, of the teacher or of a later stage
VARIATIONS = {
    **_arms_of("lambda", "-l", "1", "3", "10", "30", "100", "1000"),
    **_arms_of("h", "-h", "0.5", "1", "3", "6"),
    **{
        f"guard-epochs-{value}": Arm(f"guard-epochs-{value}", "-C", f"pretrain --epochs {value}")
        for value in ("10", "15", "100")
    },
    **{f"guard-r_bn-{value}": Arm("guard", f"-C -b {value}") for value in ("0.01", "0.1", "1", "10", "100")},
    "guard-jpg": Arm("guard", "-C", "recover --image-format jpg"),
    "guard-train-mode": Arm("guard", "-C", "relabel --teacher-mode train"),
}
ARMS |= VARIATIONS

# The frontier: where images come from, the teacher of images and labels, and what the student sees
IMAGE_METHODS = ("random", "rded", "sre2l")
TEACHERS = {
    "plain": "",
    "guard": "-C",
    "gr": "-G -B 30",
    "nfgsm": "-v n",
    "nfgsm+guard": "-v n -C",
}
FRONTIER = {
    f"{method}/{teacher}{views}": Arm(teacher.replace("+", "-"), f"-I {method} {flags}".strip(), stages)
    for views, stages in (("", ""), ("/adversarial", "train --adversarial-share 1"))
    for teacher, flags in TEACHERS.items()
    for method in IMAGE_METHODS
}
ARMS |= FRONTIER

# Images and teachers of the frontier by the paper's recipe of labels and student, METHOD/TEACHER/paper
BY_RECIPE = {
    f"{method}/{teacher}/paper": Arm(teacher, f"{ARMS[f'{method}/{teacher}'].flags} -R paper")
    for method in ("random", "sre2l")
    for teacher in ("plain", "guard", "nfgsm")
}
ARMS |= BY_RECIPE

# The frontier's best arm with one setting of labels or student changed
BEST = "rded/nfgsm/adversarial"


def _of_the_best(flags="", stages=""):
    best = ARMS[BEST]
    return Arm(best.teacher, f"{best.flags} {flags}".strip(), f"{best.stages} {stages}".strip())


# input gradients of the teacher matched, beside adversarial views
_GRADIENTS = "relabel --input-gradients values train --gradient-weight 1000"

STUDENT_SETTINGS = {
    "student-rslad-share": _of_the_best(stages="train --adversarial-share 5/6"),
    "student-against-teacher": _of_the_best(
        stages="relabel --input-gradients signs train --views-against teacher"
    ),
    "student-ikdiga": _of_the_best(
        stages="relabel --input-gradients values"
        " train --adversarial-share 0 --loss kl+cross-entropy --gradient-weight 1000"
    ),
    "student-gradients": _of_the_best(stages=_GRADIENTS),
    "student-mse": _of_the_best(stages="train --loss mse"),
    "student-temperature-1": _of_the_best(stages="train --temperature 1"),
    "student-unsquared": _of_the_best(stages="train --no-squared-temperature"),
    "student-learning-rate-0.001": _of_the_best(stages="train --learning-rate 0.001"),
    "student-learning-rate-0.004": _of_the_best(stages="train --learning-rate 0.004"),
    "student-zeta-2": _of_the_best(stages="train --zeta 2"),
    "student-average": _of_the_best(stages="train --weight-average 0.99"),
    "student-mixup": _of_the_best(stages="relabel --mix mixup"),
    "student-unmixed": _of_the_best(stages="relabel --mix none"),
    "student-crops-0.08": _of_the_best(stages="relabel --crop-scale 0.08"),
    "student-batch-100": _of_the_best(stages="relabel --batch-size 100"),
    "student-teacher-mode-train": _of_the_best(stages="relabel --teacher-mode train"),
    "student-epochs-150": _of_the_best("-z 150"),
    "student-epochs-2400": _of_the_best("-z 2400"),
    "student-paper": _of_the_best("-R paper -z 400"),
}
ARMS |= STUDENT_SETTINGS

# Few bytes: the best arm's labels, from fewer epochs that are gone through again, and in small formats
_AGAIN = "train --epochs 600 --reuse-labels"
_SEEN = (("", ""), ("/adversarial", " --adversarial-share 1"))
LABEL_BYTES = {
    "labels-int8": _of_the_best(stages="relabel --label-format int8"),
    "labels-int8-top-3": _of_the_best(stages="relabel --label-format int8 --top-classes 3"),
    **{
        f"labels-int8-epochs-{epochs}": _of_the_best(
            stages=f"relabel --label-format int8 --epochs {epochs} {_AGAIN}"
        )
        for epochs in ("200", "60", "20")
    },
    # real images with hard labels, as many as fit in the bytes of its images and labels, and of those with
    # labels in int8, and as many as it has, for as many steps
    **{
        f"labels-hard-of-{count}-real{views}": Arm(
            "nfgsm", f"-I random -v n -c {count} -z {epochs}", f"train --loss cross-entropy{flags}"
        )
        for count, epochs in (("105", "57"), ("37", "150"), ("10", "600"))
        for views, flags in _SEEN
    },
    # what recovered images are worth without their labels
    **{
        f"labels-hard-of-10-recovered{views}": Arm("nfgsm", "-v n", f"train --loss cross-entropy{flags}")
        for views, flags in _SEEN
    },
}
HARD = "labels-hard-of-10-real"  # of the images of random/TEACHER
HARD_RECOVERED = "labels-hard-of-10-recovered"  # of those of sre2l/nfgsm
ARMS |= LABEL_BYTES

# As good as a ConvNet's student gets: some 6,000 steps with a learning rate that stops halfway, of the best
# arm and of random images; then by a teacher of more steps, and of 50 images per class a student of more,
# too; by a teacher of less curvature; then from labels of fewer epochs that are gone through again; then with
# the teacher's input gradients matched
_JUDGED = "train --attacks pgd100,apgd-ce,apgd-dlr,autoattack --epsilon 2/255 --images 63 train --zeta 2"
_RANDOM = ARMS["random/nfgsm/adversarial"]
_LONG = f"{_RANDOM.stages} {_JUDGED}"
_BATCH = "pretrain --curvature-statistics batch"
GOALS = {
    **{f"goal-epochs-{epochs}": _of_the_best(f"-z {epochs}", _JUDGED) for epochs in ("600", "3000", "6000")},
    **{
        f"goal-random-epochs-{epochs}": Arm(_RANDOM.teacher, f"{_RANDOM.flags} -z {epochs}", _LONG)
        for epochs in ("600", "3000", "6000")
    },
    **{
        f"goal-random-teacher-40-epochs-{epochs}": Arm(
            "nfgsm-40", f"{_RANDOM.flags} -z {epochs}", f"{_LONG} pretrain --epochs 40"
        )
        for epochs in ("2400", "3000", "6000")
    },
    **{
        f"goal-random-nfgsm+guard-batch-epochs-{epochs}": Arm(
            "nfgsm-guard-batch", f"{_RANDOM.flags} -C -z {epochs}", f"{_LONG} {_BATCH}"
        )
        for epochs in ("2400", "3000")
    },
    **{
        f"goal-random-labels-{epochs}-epochs-3000": Arm(
            _RANDOM.teacher,
            f"{_RANDOM.flags} -z 3000",
            f"{_LONG} relabel --label-format int8 --epochs {epochs} train --epochs 3000 --reuse-labels",
        )
        for epochs in ("600", "200")
    },
    "goal-random-teacher-40-labels-2400-epochs-4800": Arm(
        "nfgsm-40",
        f"{_RANDOM.flags} -z 4800",
        f"{_LONG} pretrain --epochs 40 relabel --epochs 2400 train --epochs 4800 --reuse-labels",
    ),
}
GOALS |= {
    f"goal-{teacher}-gradients-epochs-{epochs}": replace(arm, stages=f"{arm.stages} {_GRADIENTS}")
    for teacher, epochs in (("random", "3000"), ("random-teacher-40", "2400"))
    for arm in [GOALS[f"goal-{teacher}-epochs-{epochs}"]]
}
ARMS |= GOALS

# The published methods of CIFAR-10 with all of it, METHOD/RECIPE, and random real images by the same labels
_AS_PUBLISHED = "-i 2000 -z 300"
_BY_THE_PAPER = "train --attacks pgd100,square,autoattack-paper,cw,mim"
_ATTACKED = f"pretrain --epochs 20 {_BY_THE_PAPER}"
METHODS = {
    f"{method}/{recipe}": Arm(teacher, f"{flags} {_AS_PUBLISHED} -R {recipe}".strip(), _ATTACKED)
    for recipe in ("paper", "modern")
    for method, teacher, flags in (
        ("sre2l", "plain-20", ""),
        ("guard", "guard-20", "-C"),
        ("cda", "plain-20", "-A"),
        ("cda+guard", "guard-20", "-A -C"),
        ("random-20", "plain-20", "-I random"),  # not the frontier's, of teachers of 8 epochs
        ("random-20+guard", "guard-20", "-I random -C"),
    )
}
ARMS |= METHODS


def _condensed(networks, name=""):
    """DC and DC with GUARD on a number of networks, which have instance norm. The student of DC's own recipe
    learns from hard labels.
    """
    flags = f"-I dc -m convnet-in -e convnet-in -i {networks} -z 300"
    return {
        f"dc{name}{more}/{recipe}": Arm(teacher, f"{flags} {flag}-R {recipe}", _ATTACKED)
        for recipe in ("dc", "modern")
        for more, teacher, flag in (("", "plain-20", ""), ("+guard", "guard-20", "-C "))
    }


_RANDOM_IN = {
    f"random-in{more}/{recipe}": Arm(
        teacher, f"-I random -m convnet-in -e convnet-in -z 300 {flag}-R {recipe}", _ATTACKED
    )
    for more, teacher, flag, recipe in (
        ("", "plain-20", "", "dc"),
        ("", "plain-20", "", "modern"),
        ("+guard", "guard-20", "-C ", "modern"),
    )
}
DC = _condensed(1000) | _RANDOM_IN  # 1,000 are published
DC_OF_100 = _condensed(100, "-100") | _RANDOM_IN
ARMS |= DC | DC_OF_100

# SRe2L, GUARD and random images by the paper's network, of whose teacher an epoch takes as long as seven of
# ConvNet-3's
RESNET18 = {
    f"{method}-resnet18/{recipe}": Arm(
        teacher,
        f"-m resnet18 -e resnet18 {flags}{_AS_PUBLISHED} -R {recipe}",
        f"pretrain --epochs 10 {_BY_THE_PAPER}",
    )
    for recipe in ("paper", "modern")
    for method, teacher, flags in (
        ("sre2l", "plain-10", ""),
        ("guard", "guard-10", "-C "),
        ("random", "plain-10", "-I random "),
        ("random+guard", "guard-10", "-I random -C "),
    )
}
ARMS |= RESNET18

# Curvature on trial: its settings, alone and beside a one-step adversarial teacher, CURVATURE/TEACHER; and
# what a regularizer of the first derivative gains by the mini-batch's statistics
_BENT = {f"lambda-{value}": f"-l {value}" for value in ("1", "10", "1000")}
_BENT |= {f"h-{value}": f"-h {value}" for value in ("1", "6")}  # beside lambda 100 and h 3 of the frontier's
CURVATURE = {
    f"curvature-{name}/{teacher}": Arm(
        f"{teacher.replace('+', '-')}-{name}", f"-I random {kind} {flags}".strip(), stages
    )
    for teacher, kind in (("guard", "-C"), ("nfgsm+guard", "-v n -C"))
    for name, flags, stages in (*((*bent, "") for bent in _BENT.items()), ("batch", "", _BATCH))
}
CURVATURE["curvature-batch/gr"] = Arm("gr-batch", f"-I random {TEACHERS['gr']}", _BATCH)
ARMS |= CURVATURE
TRIED = ("plain", "guard", "gr", "nfgsm", "nfgsm+guard")


def rank(arm):
    """Where an arm stands among the arms; those without a place of their own come last."""
    return list(ARMS).index(arm) if arm in ARMS else len(ARMS)

"""The formulas as plain, slow code: what the tests and the bench compare the fast code with.

Written from the formulas alone. Images are handled one at a time wherever a formula is about one image,
and nothing is shared between passes. Nothing here imports the code that it judges.
"""

from guard.bench.reference.attacks import cw, mim, pgd
from guard.bench.reference.labels import LabelledViews, cutmix, mixed_batches, mixup, student_loss
from guard.bench.reference.recovery import (
    batch_norm_loss,
    batch_norm_terms,
    crop_scale_lower_bound,
    look_at,
    recover,
    weighted,
)
from guard.bench.reference.teacher import (
    adversarial_example,
    batch_gradient,
    cross_entropy,
    curvature_along_z,
    direction,
    eval_mode,
    gradient_norm,
    gradient_regularization,
    gradient_squared,
    hessian,
    image_gradient,
    kl_divergence,
    largest_eigenvalue,
    loss_difference,
    prediction,
    project,
    teacher_loss,
    trades_loss,
)

__all__ = [
    "LabelledViews",
    "adversarial_example",
    "batch_gradient",
    "batch_norm_loss",
    "batch_norm_terms",
    "crop_scale_lower_bound",
    "cross_entropy",
    "curvature_along_z",
    "cutmix",
    "cw",
    "direction",
    "eval_mode",
    "gradient_norm",
    "gradient_regularization",
    "gradient_squared",
    "hessian",
    "image_gradient",
    "kl_divergence",
    "largest_eigenvalue",
    "look_at",
    "loss_difference",
    "mim",
    "mixed_batches",
    "mixup",
    "pgd",
    "prediction",
    "project",
    "recover",
    "student_loss",
    "teacher_loss",
    "trades_loss",
    "weighted",
]

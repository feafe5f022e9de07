"""Adversarial views for a student: RSLAD's inner step against its soft labels (Zi et al., ICCV 2021), or a
step against the teacher.
"""

import torch
import torch.nn.functional as F

from guard.networks.models import frozen_eval
from guard.run.devices import widened


def views_against_teacher(pixels, gradient, *, epsilon):
    """A step of epsilon in each pixel up the teacher's cross-entropy, (N, 3, S, S) in [0,1].

    gradient: of the teacher's cross-entropy by `pixels`, or its signs; the step needs no pass through a
    network.
    """
    return (pixels + epsilon * gradient.sign()).clamp(0, 1)


def adversarial_views(student, pixels, teacher_logits, *, epsilon, noise):
    """One step up KL(softmax t(x) || softmax s(x')) from uniform noise in +-epsilon, (N, 3, S, S).

    The step has length epsilon in each pixel, and its end is taken back to the ball of epsilon around
    `pixels` and to [0,1]. teacher_logits: (N, classes) of the clean views. noise: (N, 3, S, S), uniform in
    [0,1). The student is in eval mode meanwhile; its weights get no gradient.
    """
    low, high = (pixels - epsilon).clamp(min=0), (pixels + epsilon).clamp(max=1)
    start = (pixels + epsilon * (2 * noise - 1)).maximum(low).minimum(high).requires_grad_()
    with frozen_eval(student):
        teacher = F.log_softmax(teacher_logits, 1)
        logits = F.log_softmax(widened(student(start)), 1)
        distance = F.kl_div(logits, teacher, reduction="sum", log_target=True)
        (gradient,) = torch.autograd.grad(distance, start)
    return (start.detach() + epsilon * gradient.sign()).maximum(low).minimum(high)

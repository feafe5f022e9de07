"""Adversarial views for a student: RSLAD's inner step against its soft labels (Zi et al., ICCV 2021), the
same step against hard labels, or one against the teacher.
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


def adversarial_views(student, pixels, wanted, *, epsilon, noise):
    """One step up CE(wanted, softmax s(x')) from uniform noise in +-epsilon, (N, 3, S, S).

    The step has length epsilon in each pixel, and its end is taken back to the ball of epsilon around
    `pixels` and to [0,1]. wanted: (N, classes), what the student should say of the clean views, adding up to
    1 for each; where it is the teacher's softmax, the step is RSLAD's up KL(softmax t(x) || softmax s(x')),
    which has the same gradient. noise: (N, 3, S, S), uniform in [0,1). The student is in eval mode meanwhile;
    its weights get no gradient.
    """
    low, high = (pixels - epsilon).clamp(min=0), (pixels + epsilon).clamp(max=1)
    start = (pixels + epsilon * (2 * noise - 1)).maximum(low).minimum(high).requires_grad_()
    with frozen_eval(student):
        loss = F.cross_entropy(widened(student(start)), wanted, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, start)
    return (start.detach() + epsilon * gradient.sign()).maximum(low).minimum(high)

"""What a student is trained with: each loss is a row of guard.registry.STUDENT_LOSSES.

All take (student_logits, teacher_logits, targets, temperature) and return a scalar, the mean over the
mini-batch. The first three are (N, classes). targets: the share of each class in each image, that is its hard
labels, mixed in the proportion in which its pixels are.
"""

import torch
import torch.nn.functional as F

from guard.run import processes

CROSS_ENTROPY_SHARE = 0.025  # of `squared_error`, as in EDC's code


def kullback_leibler(student_logits, teacher_logits, targets, temperature, squared=False):
    """KL(softmax(teacher / T) || softmax(student / T)), without a factor T^2 (SRe2L, Yin et al. 2023), or
    with it (Hinton et al. 2015) where `squared` is true.
    """
    del targets
    student = F.log_softmax(student_logits / temperature, 1)
    teacher = F.log_softmax(teacher_logits / temperature, 1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence if squared else divergence


def squared_error(student_logits, teacher_logits, targets, temperature):
    """mean (s - t)^2 of the logits s and t + 0.025 CE(s, targets), no temperature (EDC, Shao et al. 2024)."""
    del temperature
    cross_entropy = F.cross_entropy(student_logits, targets)
    return F.mse_loss(student_logits, teacher_logits) + CROSS_ENTROPY_SHARE * cross_entropy


def half_cross_entropy(student_logits, teacher_logits, targets, temperature, squared=False):
    """0.5 KL + 0.5 CE(s, targets), to which IKDIGA adds the distance of the input gradients."""
    divergence = kullback_leibler(student_logits, teacher_logits, targets, temperature, squared)
    return 0.5 * divergence + 0.5 * F.cross_entropy(student_logits, targets)


def gradient_distance(pixels, student_logits, teacher_gradient, targets):
    """||g_s - g_t||_2 over the whole mini-batch, divided by its N images, with its second-order graph.

    g_s: gradient of each image's CE(s, targets) by its pixels. teacher_gradient: g_t, the teacher's, (N, 3,
    S, S). pixels: (N, 3, S, S), with a graph to student_logits. IKDIGA's code weighs it by 1000.

    Of several processes each has its share of the mini-batch, and all have to call. The shares' values, each
    weighted by its part of the images, add up to that of the whole, and so do their gradients.
    """
    cross_entropy = F.cross_entropy(student_logits, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(cross_entropy, pixels, create_graph=True)
    distance = (gradient - teacher_gradient).flatten().norm()
    if processes.world_size() > 1:
        whole = processes.sum_over_processes(distance.detach().square()).sqrt()
        distance = distance * (distance.detach() / whole.clamp(min=torch.finfo(whole.dtype).tiny))
    return distance / len(pixels)


def hard_cross_entropy(student_logits, teacher_logits, targets, temperature):
    """CE(s, targets) of the student's logits s: training on hard labels, without the teacher."""
    del teacher_logits, temperature
    return F.cross_entropy(student_logits, targets)

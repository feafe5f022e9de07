"""What a student is trained with."""

import torch.nn.functional as F


def student_loss(student_logits, teacher_logits, temperature):
    """KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, no factor T^2 (SRe2L's)."""
    return F.kl_div(
        F.log_softmax(student_logits / temperature, 1),
        F.log_softmax(teacher_logits / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )

"""L-inf attacks that follow the sign of the cross-entropy's gradient: PGD (Madry et al. 2018), MIM (Dong et al. 2018)."""

import torch
import torch.nn.functional as F

from guard.attacks.slots import Slots


def sign_steps(model, images, labels, *, epsilon, draws, batch_size, relative_step, steps, random_start=False, decay=None):
    """`steps` steps of relative_step * epsilon along the gradient's sign, within epsilon and [0,1]; (adversarial, broken).

    random_start: begin uniformly in the ball, with draws(position) for the image at that position. decay: of MIM's momentum, in
    which each image's gradient is divided by that image's own L1 norm; None for PGD. An image is broken by its first misclassified
    iterate, the start included, and left alone from then on; the forward that judges an iterate is the one its gradient is taken of.
    """
    adversarial, broken = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)

    def start(entering):
        x = images[entering]
        if random_start:
            shape = x.shape[1:]
            noise = [torch.rand(shape, generator=draws(i), dtype=x.dtype) for i in entering.tolist()]
            x = (x + (2 * torch.stack(noise).to(x.device) - 1) * epsilon).maximum(low[entering]).minimum(high[entering])
        return {"x": x, "done": torch.zeros(len(entering), dtype=torch.int64, device=x.device), "momentum": torch.zeros_like(x)}

    slots = Slots(len(images), batch_size, start, images.device)
    while slots.refill():
        index, state = slots.index, slots.state
        x = state["x"].requires_grad_()
        logits = model(x)
        fooled = logits.argmax(1) != labels[index]
        finished = fooled | (state["done"] == steps)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels[index], reduction="sum"), x)
        x = x.detach()
        adversarial[index[finished]], broken[index[fooled]] = x[finished], True
        if decay is not None:
            length = gradient.abs().sum((1, 2, 3), keepdim=True)
            gradient = decay * state["momentum"] + gradient / torch.where(length > 0, length, 1)
            state["momentum"] = gradient
        state["x"] = (x + relative_step * epsilon * gradient.sign()).maximum(low[index]).minimum(high[index])
        state["done"] += 1
        slots.leave(finished)
    return adversarial, broken

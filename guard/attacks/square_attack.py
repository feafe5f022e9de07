"""The Square attack (Andriushchenko et al., ECCV 2020), L-inf: random search that needs the logits alone."""

import torch

from guard.attacks.slots import Slots

HALVINGS = (
    10,
    50,
    200,
    500,
    1000,
    2000,
    4000,
    6000,
    8000,
)  # of p, in queries out of 10,000: the paper's schedule, rescaled

FORWARD_ONLY = 2  # times as many images fit into memory at once where nothing is kept for a backward


def sides(queries, p_init, size):
    """(queries,) side in pixels of the square that each query changes: its share of the image starts at
    p_init and halves by schedule.
    """
    made = []
    for query in range(queries):
        halved = sum(int(query / queries * 10000) > limit for limit in HALVINGS)
        made.append(max(round((p_init / 2**halved) ** 0.5 * size), 1))
    return torch.tensor(made)


def square(model, images, labels, *, epsilon, draws, batch_size, queries, p_init):
    """Up to `queries` queries; keeps a change that lowers the margin z_y - max_{j != y} z_j;
    (adversarial, broken).

    Starts from vertical stripes of +-epsilon; each query moves a square, at a place of the image's own,
    to one side of the ball in each channel. An image is left alone once it is misclassified.
    """
    adversarial, broken = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    height, width = images.shape[2:]
    side = sides(queries, p_init, (height * width) ** 0.5).clamp(max=min(height, width))
    room = torch.tensor([[height, width]]) - side.view(
        -1, 1
    )  # for the upper left corner of each query's square
    side = side.to(images.device)

    def start(entering):
        stripes, places, signs = [], [], []
        for position in entering.tolist():
            generator = draws(position)
            stripes.append(
                torch.randint(2, (images.shape[1], 1, width), generator=generator, dtype=torch.int8)
            )
            places.append((torch.rand(queries, 2, generator=generator) * room).int())
            signs.append(
                torch.randint(
                    2, (queries, images.shape[1], 1, 1), generator=generator, dtype=torch.int8
                ).bool()
            )
        stripes, places, signs = (torch.stack(each).to(images.device) for each in (stripes, places, signs))
        x = torch.where(stripes.bool(), high[entering], low[entering])
        return {
            "low": low[entering],
            "high": high[entering],
            "own": labels[entering].view(-1, 1),
            "x": x,
            "best": x,
            "margin": images.new_full((len(entering),), torch.inf),
            "places": places,
            "signs": signs,
            "done": torch.zeros(len(entering), dtype=torch.int64, device=x.device),
        }

    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    slots = Slots(len(images), FORWARD_ONLY * batch_size, start, images.device)
    with torch.inference_mode():
        while slots.refill():
            index, state = slots.index, slots.state
            logits, own = model(state["x"]), state["own"]
            margin = logits.gather(1, own).squeeze(1) - logits.scatter(1, own, -torch.inf).amax(1)
            fooled = logits.argmax(1) != own.squeeze(1)
            better = fooled | (margin < state["margin"])
            state["best"] = torch.where(better.view(-1, 1, 1, 1), state["x"], state["best"])
            state["margin"] = torch.where(better, margin, state["margin"])
            finished = fooled | (state["done"] == queries - 1)
            if finished.any():
                adversarial[index[fooled]], broken[index[fooled]] = state["best"][fooled], True

            here, query = torch.arange(len(index), device=images.device), state["done"]
            length, corner = side[query].view(-1, 1), state["places"][here, query]
            inside = (
                _between(rows - corner[:, :1], length).unsqueeze(2)
                & _between(columns - corner[:, 1:], length).unsqueeze(1)
            ).unsqueeze(1)
            moved = torch.where(state["signs"][here, query], state["high"], state["low"])
            state["x"] = torch.where(inside, moved, state["best"])
            state["done"] = query + 1
            slots.leave(finished)
    return adversarial, broken


def _between(distance, length):
    """0 <= distance < length."""
    return (distance >= 0) & (distance < length)

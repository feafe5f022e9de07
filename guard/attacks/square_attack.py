"""The Square attack (Andriushchenko et al., ECCV 2020), L-inf: random search that needs the logits alone."""

import torch

from guard.attacks.ball import bounds
from guard.attacks.cw import margin
from guard.attacks.slots import Slots, no_steps, none_broken, note_broken, per_image

# The queries out of 10,000 after which p halves: the paper's schedule, rescaled to the number of queries.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# How many times as many images fit into memory at once, since nothing is kept for a backward pass.
FORWARD_ONLY = 2


def sides(queries, p_init, size):
    """(queries,) int64, the side in pixels of the square that each query changes.

    Its share p of the image starts at p_init and halves by schedule. size: the image's side in pixels.
    """
    found = []
    for query in range(queries):
        rescaled = int(query / queries * 10000)
        halved = sum(rescaled > limit for limit in HALVINGS)
        share = p_init / 2**halved
        found.append(max(round(share**0.5 * size), 1))
    return torch.tensor(found)


def square(model, images, labels, *, epsilon, draws, batch_size, queries, p_init):
    """Up to `queries` queries against the margin z_y - max_{j != y} z_j; (adversarial, broken).

    It starts from vertical stripes of +-epsilon. Each query moves one square, at a place of the image's own,
    to one side of the ball in each channel, and the change is kept where it lowers the margin. An image is
    left alone once it is misclassified.
    """
    adversarial, broken = images.clone(), none_broken(images)
    lowest, highest = bounds(images, epsilon)
    _, channels, height, width = images.shape
    side = sides(queries, p_init, (height * width) ** 0.5).clamp(max=min(height, width))

    def start(entering):
        stripes, corners, signs = _drawn(entering, draws, side, channels, height, width)
        low, high = lowest[entering], highest[entering]
        x = torch.where(stripes.to(images.device).bool(), high, low)
        return {
            "x": x,
            "best": x,  # the iterate with the lowest margin so far
            "margin": images.new_full((len(entering),), torch.inf),  # its margin
            "low": low,
            "high": high,
            "own": labels[entering].view(-1, 1),
            "corners": corners.to(images.device),
            "signs": signs.to(images.device),
            "done": no_steps(x),
        }

    side_on_device = side.to(images.device)
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    slots = Slots(len(images), FORWARD_ONLY * batch_size, start, images.device)
    with torch.inference_mode():
        while slots.refill():
            index, state = slots.index, slots.state
            logits, own = model(state["x"]), state["own"]
            found = margin(logits, own)
            fooled = logits.argmax(1) != own.squeeze(1)
            better = fooled | (found < state["margin"])
            state["best"] = torch.where(per_image(better), state["x"], state["best"])
            state["margin"] = torch.where(better, found, state["margin"])
            finished = fooled | (state["done"] == queries - 1)
            best = state["best"]
            state["x"] = _with_a_square_moved(state, side_on_device, rows, columns)
            state["done"] = state["done"] + 1
            gone = slots.leave(finished)
            if len(gone):
                note_broken(adversarial, broken, index[gone], best[gone], fooled[gone])
    return adversarial, broken


def _drawn(entering, draws, side, channels, height, width):
    """All that is random about the images that enter, on the CPU; one row per image.

    Returns stripes (k, channels, 1, W) of 0 and 1; for each query the upper left corner of its square,
    corners (k, queries, 2) int32 of row and column; and to which side of the ball it goes, signs (k, queries,
    channels, 1, 1) bool.
    """
    queries = len(side)
    room = torch.tensor([[height, width]]) - side.view(-1, 1)  # for the corners
    stripes, corners, signs = [], [], []
    for position in entering.tolist():
        generator = draws(position)
        stripe = torch.randint(2, (channels, 1, width), generator=generator, dtype=torch.int8)
        corner = (torch.rand(queries, 2, generator=generator) * room).int()
        sign = torch.randint(2, (queries, channels, 1, 1), generator=generator, dtype=torch.int8)
        stripes.append(stripe)
        corners.append(corner)
        signs.append(sign.bool())
    return torch.stack(stripes), torch.stack(corners), torch.stack(signs)


def _with_a_square_moved(state, side, rows, columns):
    """The best iterates (k, 3, H, W), each with the square of its next query moved to a side of the ball.

    side: (queries,). rows, columns: the numbers of the images' rows (H,) and columns (W,).
    """
    best, query = state["best"], state["done"]
    image = torch.arange(len(query), device=best.device)
    length, corner = side[query].view(-1, 1), state["corners"][image, query]
    in_rows = _between(rows - corner[:, :1], length)
    in_columns = _between(columns - corner[:, 1:], length)
    inside = (in_rows.unsqueeze(2) & in_columns.unsqueeze(1)).unsqueeze(1)  # (k, 1, H, W)
    moved = torch.where(state["signs"][image, query], state["high"], state["low"])
    return torch.where(inside, moved, best)


def _between(distance, length):
    """Where 0 <= distance < length."""
    return (distance >= 0) & (distance < length)

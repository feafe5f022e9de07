"""Image method dc: images on which a network's gradients are those on training images.

Dataset Condensation with Gradient Matching (Zhao et al., ICLR 2021). Of the teacher it takes what kind of
network it is, how it sees images, and the regularizers that it was trained with, but none of its weights.
"""

import functools
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from guard import earlier
from guard.data.augment import as_float
from guard.errors import UserError
from guard.method import regularizers
from guard.method.gradient_matching import distance, matched_weights
from guard.networks import layout, models
from guard.networks.twice import twice_differentiable
from guard.run import devices
from guard.run.seeds import generator, seed_everything
from guard.settings import Pretrain
from recover.recovery import Made, Part, Plan
from recover.start import Start

NETWORK_BATCH = 256  # distilled images in a step of a network, as published
STATISTICS_IMAGES = 16  # training images of each class that set a network's batch norms, as published
STATE = ("iterations", "images", "optimizer", "distances")  # names in the state of a stopped run

# ---- setup ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condensation:
    """What is the same for all networks.

    of_class: for each class the indices of its training images. labels: (N,) of the distilled images, which
    are sorted by class. of_teacher: settings.Pretrain, of which the regularizers count.
    """

    request: object
    of_class: list
    labels: torch.Tensor
    of_teacher: Pretrain

    def training_batch(self, label, count, draws):
        """(pixels (B, 3, S, S) in [0,1], labels (B,)): up to `count` training images of a class, drawn."""
        own, device = self.of_class[label], self.request.device
        chosen = own[torch.randperm(len(own), generator=draws)[:count]]
        pixels = as_float(self.request.training_images.validation(chosen, self.request.size).to(device))
        return pixels, torch.full((len(chosen),), label, device=device)

    def images_of(self, label):
        """The place of a class's distilled images among all."""
        count = self.request.settings.images_per_class
        return slice(label * count, (label + 1) * count)


def plan(request):
    """One part, since all images are matched on the same networks. Its one loss is the distance of the
    gradients, at the last step, of the class that an image is of.
    """
    start = None if request.settings.start == "noise" else Start(request)
    named = _named(request)
    make = functools.partial(_make, condensation(request), named, start)
    part = Part(named, make, keeps_state=True)
    return Plan([part], columns=("distance of the gradients",), steps=request.settings.iterations)


def condensation(request):
    """The Condensation of a recovery.Request."""
    found = request.training_images.labels
    of_class = [(found == label).nonzero().squeeze(1) for label in range(len(request.classes))]
    labels = torch.tensor([label for label, _ in _named(request)], device=request.device)
    return Condensation(request, of_class, labels, settings_of(request.teacher))


def _named(request):
    """(label, number within its class) of each image, in order."""
    numbers = range(request.settings.images_per_class)
    return [(label, number) for label in range(len(request.classes)) for number in numbers]


def settings_of(teacher):
    """The settings.Pretrain that a Checkpoint was trained with; adopted weights count as trained plainly."""
    found = earlier.as_now("pretrain", teacher.settings)
    return Pretrain(**{row.name: found[row.name.rstrip("_")] for row in fields(Pretrain)})


def loops(settings):
    """(steps of the images on each network, epochs of the network between two of them).

    Where the settings leave them open they are those published for 1, 10 and 50 images per class, and a rule
    through these for other numbers.
    """
    count = settings.images_per_class
    published_epochs = 1 if count == 1 else max(1, 500 // count)
    return settings.matchings or count, settings.network_epochs or published_epochs


# ---- gradients -----------------------------------------------------------------------------------


def real_gradients(model, pixels, labels, of_teacher):
    """Gradients of the matched weights on training images, of the cross-entropy's mean and the regularizers.

    pixels: (B, 3, S, S) in [0,1]. of_teacher: settings.Pretrain.
    """
    x = model.normalize(pixels)
    loss = F.cross_entropy(devices.widened(model.network(x)), labels)
    if of_teacher.curvature or of_teacher.gradient_regularization:
        loss = loss + regularizers.penalty(of_teacher, model.network, x, labels)
    return torch.autograd.grad(loss, matched_weights(model.network))


def matched(network, x, labels, real):
    """(distance, its gradient by x) of the gradients on x from those on training images.

    x: normalized images (n, 3, S, S) of one class. real: as of `real_gradients`.
    """
    x = x.detach().requires_grad_()
    with twice_differentiable(network):
        loss = F.cross_entropy(devices.widened(network(x)), labels)
        mine = torch.autograd.grad(loss, matched_weights(network), create_graph=True)
        found = distance(mine, real)
        (gradient,) = torch.autograd.grad(found, x)
    return found.detach(), gradient


def _match_all(held, model, x, draws):
    """A distance for each class, (C,). The gradient of their sum by x is left in x.grad."""
    _set_batch_norms(held, model, draws)
    settings, found = held.request.settings, []
    x.grad = torch.zeros_like(x)
    for label in range(len(held.of_class)):
        pixels, labels = held.training_batch(label, settings.real_batch, draws)
        real = real_gradients(model, pixels, labels, held.of_teacher)
        mine = held.images_of(label)
        apart, gradient = matched(model.network, x[mine], held.labels[mine], real)
        x.grad[mine] = gradient
        found.append(apart)
    return torch.stack(found)


def _set_batch_norms(held, model, draws):
    """Batch norms, where there are any, see training images of all classes once and then stay as they are:
    a class's few distilled images would make no statistics.
    """
    if not (norms := models.batch_norm_layers(model)):
        return
    classes = range(len(held.of_class))
    pixels = torch.cat([held.training_batch(label, STATISTICS_IMAGES, draws)[0] for label in classes])
    with torch.no_grad():
        model.train()(pixels)
    for norm in norms:
        norm.eval()


# ---- loop ----------------------------------------------------------------------------------------


def _make(held, named, start, progress, state):
    """All images, and for each its class's distance. state: guard.run.unfinished.Unfinished."""
    request, settings = held.request, held.request.settings
    x = request.model.normalize(_start(held, named, start).to(request.device)).requires_grad_()
    optimizer = torch.optim.SGD([x], settings.image_rate, momentum=settings.image_momentum)
    done, distances = _restore(state, x, optimizer)
    progress.step(done)
    for number in range(done, settings.iterations):
        distances = on_a_fresh_network(held, number, x, optimizer)
        progress.step(distance=distances.sum())
        progress.line(f"network {number + 1}/{settings.iterations}, distance {distances.sum():.4g}")
        state.save_if_due(functools.partial(_state, number + 1, x, optimizer, distances))
    pixels = request.model.denormalize(x.detach()).clamp(0, 1)
    # Which training images were looked at is not told: nearly all, drawn again for each step.
    return Made(pixels, distances[held.labels].view(-1, 1).tolist())


def _start(held, named, start):
    """Where the images begin, (N, 3, S, S) in pixels: N(0, 1) after normalization, or those of a Start."""
    if start:
        return start.images(named)
    size = held.request.size
    noise = torch.randn(len(named), 3, size, size, generator=generator(held.request.seed, "dc", "noise"))
    return held.request.model.denormalize(noise.to(held.request.device))


def on_a_fresh_network(held, number, x, optimizer):
    """Steps of the images x on the network of this number, which is trained on them in between.

    Returns the distance of each class, (C,), at the last step.
    """
    request, settings, model = held.request, held.request.settings, held.request.model
    seed_everything(request.seed, "dc", "network", number)
    lowest = model.normalize(torch.zeros_like(model.mean))
    highest = model.normalize(torch.ones_like(model.mean))
    fresh = request.teacher.fresh().to(request.device)
    layout.arrange(fresh.network, channels_last=settings.channels_last)
    of_network = torch.optim.SGD(
        fresh.network.parameters(), settings.network_rate, momentum=settings.network_momentum
    )
    steps, epochs = loops(settings)
    for step in range(steps):
        draws = generator(request.seed, "dc", number, step)
        with devices.computing(settings.precision, request.device):
            distances = _match_all(held, fresh, x, draws)
        optimizer.step()
        with torch.no_grad():  # pixels stay within [0,1]
            x.copy_(x.maximum(lowest).minimum(highest))
        if step + 1 < steps:
            images = x.detach(), held.labels
            _train(fresh.network, of_network, *images, epochs, draws, settings.precision)
    if not distances.isfinite().all():
        raise UserError(
            f"the distance of the gradients is not a number on network {number + 1}; lower --image-rate or"
            " --network-rate, or take a teacher with a smaller --lambda"
        )
    return distances


def _train(network, optimizer, x, labels, epochs, draws, precision):
    """Trains a network for some epochs on the normalized images x (N, 3, S, S).

    Each step computes in a context of its own: autocast keeps the weights that it has rounded until its
    context ends, whatever an optimizer does to them meanwhile.
    """
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=draws).to(x.device)
        for chosen in order.split(NETWORK_BATCH):
            optimizer.zero_grad()
            with devices.computing(precision, x.device):
                F.cross_entropy(devices.widened(network(x[chosen])), labels[chosen]).backward()
            optimizer.step()


# ---- state of a stopped run ----------------------------------------------------------------------


def _state(iterations, x, optimizer, distances):
    contents = (iterations, x.detach(), optimizer.state_dict(), distances)
    return dict(zip(STATE, contents, strict=True))


def _restore(state, x, optimizer):
    """Puts the state of a stopped run in place: (networks done, distances), (0, None) where there is none."""
    if (found := state.read(STATE)) is None:
        return 0, None
    with torch.no_grad():
        x.copy_(found["images"])
    optimizer.load_state_dict(found["optimizer"])
    return found["iterations"], found["distances"].to(x.device)

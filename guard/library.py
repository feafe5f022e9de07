"""The project as a library: what `import guard` offers. Pixels are float32 in [0,1] everywhere."""

import warnings

import torch
from torch.utils.data import Dataset

from guard.attacks import check_inputs, robustness
from guard.data import find, images
from guard.data.augment import as_float
from guard.distilled import shared_set
from guard.distilled.label_store import LabelStore
from guard.distilled.soft_labels import batches_of, look
from guard.errors import UserError
from guard.networks import checkpoint
from guard.recipes import recipe
from guard.registry import ATTACKS, PROTOCOL_EPSILON, PROTOCOLS
from guard.run import devices


class Distilled(Dataset):
    """A set of distilled images. Item i is (pixels (3, S, S), label).

    classes: their names in label order. fingerprint: of pixels, labels and classes.
    """

    def __init__(self, packed):
        self.packed, self.classes, self.fingerprint = packed, packed.classes, packed.fingerprint

    def __len__(self):
        return len(self.packed)

    def __getitem__(self, index):
        return as_float(self.packed.pixels[index]), int(self.packed.labels[index])

    def labelled(self, folder, epoch):
        """Yields the mini-batches of an epoch of soft labels: (views (N, 3, S, S), teacher's logits (N,
        classes)).

        Views are crops, mixed with others, in the order of training; logits are in the order of `classes`.
        folder: of stage relabel, for these very images. epoch: from 0 on. Raises UserError for labels of
        other images, and for an epoch that does not exist.
        """
        store = LabelStore(folder)
        packed = self.packed.in_order_of(store.classes)
        columns = [packed.classes.index(name) for name in self.classes]
        wanted = store.open(packed.fingerprint, packed.classes)
        if not 0 <= epoch < wanted.epochs:
            raise UserError(f"there is no epoch {epoch} in {folder}; there are 0 to {wanted.epochs - 1}")
        rows = store.read(epoch, wanted, packed)
        for batch in batches_of(rows, wanted.batch_size):
            yield look(packed, batch), torch.from_numpy(batch["logits"].astype("float32"))[:, columns]


class _Pixels:
    """Images in memory, as guard.attacks.robustness takes them."""

    def __init__(self, pixels, labels):
        self.pixels, self.labels = pixels, labels

    def __len__(self):
        return len(self.labels)

    def validation(self, indices, size):
        del size  # they have the network's size
        return self.pixels[indices]


def load_distilled(place):
    """A Distilled set from PLACE/CLASS/*.png, ours or distilled elsewhere, or from a file of guard.export."""
    return Distilled(shared_set.load(place))


def unpack_labels(path, folder):
    """Writes the soft labels of a file of guard.export into a new folder, for `Distilled.labelled`."""
    shared_set.unpack_labels(path, folder)


def load_network(path, device="cpu"):
    """The network of a checkpoint, teacher or student, in eval mode: pixels (N, 3, S, S) in [0,1] to
    logits.
    """
    return checkpoint.load(path).build(device)


def load_images(dataset, root="data/raw", *, split="val", per_class=0, size=None):
    """(pixels (N, 3, S, S), labels (N,)) of a data set, resized and centre-cropped as for validation.

    split: 'train' or 'val'. per_class: the first so many images of each class, 0 for all. size: S, the
    recipe's where it is None.
    """
    if per_class < 0:
        raise UserError(f"per_class is {per_class}; it is the number of images of each class, 0 for all")
    if size is not None and size < 1:
        raise UserError(f"size is {size}; it is the side of the images in pixels")
    size = size or recipe(dataset).pretrain.image_size
    held = images.load(find.find(dataset, root, split), size, per_class)
    return as_float(held.validation(torch.arange(len(held)), size)), held.labels


def evaluate(
    model,
    pixels,
    labels,
    *,
    protocol="standard",
    attacks=None,
    epsilon=PROTOCOL_EPSILON,
    seed=0,
    device=None,
):
    """Accuracy in percent: name -> number, for 'clean' and each attack.

    model: pixels in [0,1] to logits, in eval mode. device: where to compute, None for where the model is; the
    model is moved there, and stays. protocol: a name in guard.registry.PROTOCOLS, whose attacks are run
    unless `attacks` lists others, or names one. epsilon: largest change of a pixel. An image counts as robust
    where it is classified correctly and no iterate of the attack fools the model. From here on torch uses
    deterministic kernels. What the evaluation's checks say against its numbers is told in Python's warnings.
    Raises UserError for names that there are not, and for inputs that no attack can work on.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"there is no protocol '{protocol}'; there are {', '.join(PROTOCOLS)}")
    if attacks:
        names = robustness.check_names([attacks] if isinstance(attacks, str) else attacks)
    else:
        names = robustness.attacks_of([protocol])
    norms = {ATTACKS[name].norm for name in names}
    check_inputs(model, pixels, labels, epsilon, "L-inf" if "L-inf" in norms else "L2")
    if not len(pixels):
        raise UserError("there are no images; an accuracy needs one at least")
    if device is None:
        device = next((each.device for each in (*model.parameters(), *model.buffers())), "cpu")
    kind, _, number = str(device).partition(":")
    place = devices.ready(number or "0" if kind == "cuda" else str(device))
    found = robustness.evaluate(
        model.to(place),
        _Pixels(pixels, labels),
        size=tuple(pixels.shape[-2:]),
        names=names,
        epsilon=epsilon,
        attack_batch=0,
        seed=seed,
        workers=0,
        device=place,
    )
    for text in found["warnings"]:
        warnings.warn(text, stacklevel=2)
    return {name: result["accuracy"] for name, result in found["attacks"].items()}

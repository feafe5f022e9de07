"""What a student is made of: distilled images, their labels, the data set that it is measured on."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from guard import recipes
from guard.data import find, images, random_set
from guard.distilled import image_folder, shared_set, tensor_set
from guard.distilled.label_store import LabelStore
from guard.distilled.soft_labels import check_classes, draw_epoch, label_recipe, labelling_step, make_epoch
from guard.errors import UserError
from guard.networks import checkpoint, layout
from guard.networks.checkpoint import Checkpoint
from train import needs

# ---- labels --------------------------------------------------------------------------------------
# All kinds have the same: recipe, a LabelRecipe, whose batch size the student takes over;
# prepare(teacher, distilled, device), called once before training; and rows(epoch), the labels of an epoch as
# guard.distilled.soft_labels has them, a row for each view.


class StoredLabels:
    """Labels from a folder of stage relabel. Raises UserError where they are of other images or another
    teacher.

    epochs: the student takes the first so many, or all where it is None. reuse: whether it may ask for more
    than there are, and goes through them again.
    """

    def __init__(self, folder, distilled, teacher, epochs, reuse):
        self.store, self.distilled = LabelStore(folder), distilled
        self.recipe = self.store.open(distilled.fingerprint, distilled.classes, teacher.fingerprint)
        if not needs.enough_epochs(epochs, self.recipe.epochs, reuse):
            raise UserError(
                f"{folder} holds labels for {self.recipe.epochs} epochs, --epochs asks for {epochs}; make"
                f" more with python -m relabel --epochs {epochs} in another folder, or go through them again"
                " with --reuse-labels"
            )

    def prepare(self, teacher, distilled, device):
        """Nothing has to be made."""

    def rows(self, epoch):
        """The rows (guard.distilled.soft_labels) of an epoch."""
        return self.store.read(epoch % self.recipe.epochs, self.recipe, self.distilled)


class OnlineLabels:
    """Labels that the teacher makes on the fly, by `settings` (settings.Relabel)."""

    def __init__(self, settings, distilled, seed):
        self.recipe = label_recipe(settings, distilled, seed)

    def prepare(self, teacher, distilled, device):
        """teacher: Checkpoint. distilled: Packed on the device."""
        self.model, self.distilled = teacher.build(device), distilled
        recipe = self.recipe
        layout.arrange(self.model.network, channels_last=recipe.channels_last, compile=recipe.compile)
        self.step = labelling_step(self.model, recipe, device)

    def rows(self, epoch):
        return make_epoch(self.model, self.distilled, self.recipe, epoch, self.step)


class HardLabels:
    """The images' own labels, for views by `settings` (settings.Relabel). No teacher sees them."""

    def __init__(self, settings, distilled, seed):
        self.recipe, self.distilled = label_recipe(settings, distilled, seed), distilled

    def prepare(self, teacher, distilled, device):
        """Nothing has to be made."""

    def rows(self, epoch):
        """Rows with logits of zero, which the cross-entropy with the images' labels does not read."""
        size, classes = self.distilled.pixels.shape[2], len(self.distilled.classes)
        return draw_epoch(self.recipe, len(self.distilled), size, classes, epoch)


# ---- all of it -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """What a student is built for; its fields are those of a Checkpoint."""

    classes: list
    image_size: int
    stem: str
    mean: list
    std: list


@dataclass(frozen=True)
class Inputs:
    """What a student is made of, checked to belong together.

    teacher: None with hard labels. source: of the validation images.
    """

    shape: Shape
    teacher: Checkpoint | None
    distilled: images.Packed
    labels: object
    source: find.Source
    epochs: int


def with_teacher(settings, *, dataset, root, teacher_path, distilled, labels, label_settings, epochs, seed):
    """The Inputs of a student by `settings` (settings.Train) on soft labels.

    labels: a folder of soft labels, or 'online' for labels by `label_settings` (settings.Relabel). epochs: of
    training, as many as were labelled where it is None. Raises UserError for artifacts that do not belong
    together, and for labels without the gradients that the settings need.
    """
    teacher = checkpoint.load(teacher_path, "teacher")
    held = shared_set.load(distilled).in_order_of(teacher.classes)
    check_classes(teacher, held, distilled)
    source = find.find(dataset, root, "val")
    if list(source.classes) != list(teacher.classes):
        raise UserError(
            f"the classes of {source.path} are not those of the teacher {teacher_path}; use the data set it"
            f" was trained on, {teacher.dataset}"
        )
    if labels == "online":
        wanted = replace(label_settings, epochs=epochs or label_settings.epochs)
        chosen = OnlineLabels(wanted, held, seed)
    else:
        chosen = StoredLabels(labels, held, teacher, epochs, settings.reuse_labels)
    needs.check_gradients(settings, chosen.recipe.input_gradients)
    shape = Shape(**{row.name: getattr(teacher, row.name) for row in fields(Shape)})
    return Inputs(shape, teacher, held, chosen, source, epochs or chosen.recipe.epochs)


def without_teacher(*, dataset, root, distilled, label_settings, seed, image_size, stem, clamp, soft_labels):
    """The Inputs of a student on labels without a teacher, of views by `label_settings` (settings.Relabel).

    distilled: class folders, or a file of tensors, or MTT's folder of one; or the number of images of each
    class that are drawn from the training images, by `seed`, in their places. image_size: side of the images
    in pixels, and stem: first layers of a ResNet, or None for the recipe's. clamp, soft_labels: as of
    tensor_set.read; random images have hard ones. Raises UserError for images that are not of the data set's
    classes or of that size, for soft labels of folders, and for a folder that is two sets.
    """
    recipe = recipes.recipe(dataset)
    pretrain = recipes.resolve(dataset, "pretrain", {"image_size": image_size, "stem": stem})
    source = find.find(dataset, root, "val")
    mean, std = list(recipe.mean), list(recipe.std)
    shape = Shape(list(source.classes), pretrain.image_size, pretrain.stem, mean, std)
    if isinstance(distilled, int):
        training = images.load(find.find(dataset, root, "train"), shape.image_size)
        held = random_set.draw(training, distilled, shape.image_size, seed)
    elif file := tensor_set.file_of(distilled):
        if file != Path(distilled) and all((Path(distilled) / name).is_dir() for name in source.classes):
            raise UserError(
                f"{distilled} has a folder for each class and {file.name}, two sets; name that file, or move"
                " it away"
            )
        asked = {"clamp": clamp, "soft_labels": soft_labels}
        held = tensor_set.read(file, source.classes, mean=mean, std=std, **asked)
    elif soft_labels:
        raise UserError(f"{distilled} is a folder, whose images have hard labels; leave --soft-labels out")
    else:
        held = image_folder.load_distilled(distilled).in_order_of(source.classes)
    check_classes(shape, held, distilled, whose="the data set", remedy=", or name theirs with --image-size")
    return Inputs(shape, None, held, HardLabels(label_settings, held, seed), source, label_settings.epochs)

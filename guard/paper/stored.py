"""Whether a run's student heard of a teacher, and the bytes of its labels and images, from its record."""

from dataclasses import fields

from guard.registry import STUDENT_LOSSES


def hard_labels(record):
    """Whether the student of a run saw hard labels alone."""
    train = record["train"]["settings"]
    against_teacher = train.get("adversarial_share") and train.get("views_against") == "teacher"
    hears_teacher = train.get("gradient_weight") or against_teacher
    return not hears_teacher and of_hard_labels(train.get("loss", "kl"))


def of_hard_labels(loss):
    """Whether a student's loss is of hard labels alone, by its name; of an unknown name it is not."""
    return loss in STUDENT_LOSSES and not STUDENT_LOSSES[loss].reads_teacher


def without_teacher(record):
    """Whether no teacher had a part in a run's images and labels, though one was trained beside it."""
    return hard_labels(record) and record["recover"]["settings"].get("method") == "random"


def label_bytes(record):
    """Bytes that the labels of a run take: one for each image where they are hard."""
    from guard.distilled.label_format import stored_type  # for it torch is loaded
    from guard.distilled.soft_labels import LabelRecipe

    images = record["recover"]["images"]
    if hard_labels(record):
        return images
    known = {row.name for row in fields(LabelRecipe)}
    told = record["relabel"]["settings"]  # of a later version, perhaps, with more of them
    recipe = LabelRecipe(**{name: value for name, value in told.items() if name in known})
    classes = images // record["recover"]["settings"]["images_per_class"]
    size = record["pretrain"]["settings"]["image_size"]
    return recipe.epochs * images * stored_type(recipe, classes, size).itemsize


def image_bytes(record):
    """Bytes of the images' pixels, one for each value."""
    return record["recover"]["images"] * 3 * record["pretrain"]["settings"]["image_size"] ** 2


def shown(count):
    """Bytes in words: '2,940 kB', '370 bytes'."""
    return f"{count / 1000:,.0f} kB" if count >= 1000 else f"{count} bytes"

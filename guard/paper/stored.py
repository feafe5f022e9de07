"""Bytes that a run's labels and images take, from its record."""

from dataclasses import fields


def hard_labels(record):
    """Whether the student of a run saw hard labels alone."""
    return record["train"]["settings"]["loss"] == "cross-entropy"


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

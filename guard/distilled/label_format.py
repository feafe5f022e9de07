"""How the rows of soft labels are written: as they are, or small (--label-format, --top-classes).

In memory a row is always that of guard.distilled.soft_labels.row_type, so that nothing else knows of this.
"""

import numpy

from guard.distilled.soft_labels import draw_epoch, gradient_fields, row_type


def stored_type(recipe, classes, size):
    """The type of a row as it is stored.

    'fp16' without --top-classes: the row itself. Else the logits of all, or of the largest K, classes in fp16
    or int8; for K the classes' numbers and the mean of the other logits; and for int8 no view, which is drawn
    again from the seed. What is kept of the teacher's input gradient is stored as it is.
    """
    if recipe.label_format == "fp16" and not recipe.top_classes:
        return row_type(classes, size, recipe.input_gradients)
    kept = recipe.top_classes or classes
    logits = [("values", "<f2" if recipe.label_format == "fp16" else "i1", kept)]
    if recipe.label_format == "int8":
        logits += [("scale", "<f4")]
    if recipe.top_classes:
        logits += [("classes", "<u2", kept), ("others", "<f2")]
    views = [] if recipe.label_format == "int8" else _views(classes)
    return numpy.dtype([*views, *logits, *gradient_fields(size, recipe.input_gradients)])


def packed(rows, recipe, size):
    """Rows as they are stored; rows: (count,), of row_type. size: side of the images in pixels."""
    classes = rows.dtype["logits"].shape[0]
    stored = numpy.zeros(len(rows), stored_type(recipe, classes, size))
    if stored.dtype == rows.dtype:
        return rows
    for name in set(stored.dtype.names) & set(rows.dtype.names):
        stored[name] = rows[name]
    values = rows["logits"].astype("float32")
    if recipe.top_classes:
        order = numpy.argsort(-values, axis=1, kind="stable")
        largest, others = order[:, : recipe.top_classes], order[:, recipe.top_classes :]
        stored["classes"] = largest
        if others.shape[1]:
            stored["others"] = numpy.take_along_axis(values, others, 1).mean(1)
        values = numpy.take_along_axis(values, largest, 1)
    if recipe.label_format == "int8":
        stored["scale"] = abs(values).max(1) / 127
        steps = numpy.maximum(stored["scale"], numpy.finfo("float32").tiny)[:, None]
        values = (values / steps).round().clip(-127, 127)
    stored["values"] = values
    return stored


def unpacked(stored, recipe, classes, size, epoch):
    """The rows, of row_type, of an epoch as it was stored."""
    if stored.dtype == row_type(classes, size, recipe.input_gradients):
        return stored
    if recipe.label_format == "int8":
        rows = draw_epoch(recipe, len(stored), size, classes, epoch)
    else:
        rows = numpy.zeros(len(stored), row_type(classes, size, recipe.input_gradients))
    for name in set(stored.dtype.names) & set(rows.dtype.names):
        rows[name] = stored[name]
    values = stored["values"].astype("float32")
    if recipe.label_format == "int8":
        values *= stored["scale"][:, None]
    if recipe.top_classes:
        logits = numpy.repeat(stored["others"].astype("float32")[:, None], classes, 1)
        numpy.put_along_axis(logits, stored["classes"].astype("int64"), values, 1)
        values = logits
    rows["logits"] = values
    return rows


def _views(classes):
    """Fields of a row's view and mixing."""
    full = row_type(classes)
    return [(name, full[name].base.str, full[name].shape) for name in full.names if name != "logits"]

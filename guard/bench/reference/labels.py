"""The student's loss, CutMix and MixUp, and an ordinary data loader of such mini-batches."""

import math

import torch
from PIL import Image
from torchvision import transforms

# ---- relabel and train ---------------------------------------------------------------------------
from guard.bench.reference.teacher import kl_divergence


def student_loss(teacher_logits, student_logits, temperature):
    """KL(softmax(teacher/T) || softmax(student/T)), batch mean, no T^2 (train)."""
    return kl_divergence(teacher_logits / temperature, student_logits / temperature)


def cutmix(images, partner, box):
    """Each image with region `box` taken from its partner; box = (top, left, height, width)."""
    top, left, height, width = box
    mixed = images.clone()
    for i in range(len(images)):
        for row in range(top, top + height):
            for column in range(left, left + width):
                mixed[i, :, row, column] = images[int(partner[i]), :, row, column]
    return mixed


def mixup(images, partner, lam):
    """lam * image + (1 - lam) * its partner."""
    mixed = [lam * images[i] + (1 - lam) * images[int(partner[i])] for i in range(len(images))]
    return torch.stack(mixed)


class LabelledViews(torch.utils.data.Dataset):
    """Image files, each decoded, cropped, flipped and normalized when it is asked for."""

    def __init__(self, files, labels, size):
        self.files, self.labels = files, labels
        self.view = transforms.Compose(
            [
                transforms.RandomResizedCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as image:
            return self.view(image.convert("RGB")), self.labels[index]


def mixed_batches(files, labels, size, batch_size, workers):
    """One pass over the files in shuffled batches, CutMix with Beta(1,1) on each: (images, labels) (2,
    relabel).
    """
    views = LabelledViews(files, labels, size)
    loader = torch.utils.data.DataLoader(views, batch_size, shuffle=True, num_workers=workers)
    for images, classes in loader:
        lam = torch.distributions.Beta(1.0, 1.0).sample().item()
        side = int(size * math.sqrt(1 - lam))
        cy, cx = torch.randint(size, (2,)).tolist()
        top, left = max(cy - side // 2, 0), max(cx - side // 2, 0)
        bottom, right = min(cy + side // 2, size), min(cx + side // 2, size)
        partner = torch.randperm(len(images))
        images[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
        yield images, classes

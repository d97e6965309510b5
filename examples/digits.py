"""Shared by the examples: the handwritten digits, a training loop, and the accuracy.

This is not an example itself: run one of the numbered files beside it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from thinc.api import Model, Optimizer, fix_random_seed
from thinc.types import Floats2d

from thinc_swa.training.datasets import make_digits

Classifier = Model[Floats2d, Floats2d]


class Digits(NamedTuple):
    """Images of 8 x 8 pixels as rows of 64 numbers from 0 to 1, and labels as rows of ten
    numbers with a 1 at the digit's place."""

    train_images: Floats2d
    train_labels: Floats2d
    test_images: Floats2d
    test_labels: Floats2d


def load_digits() -> Digits:
    """The 1797 digits that come with scikit-learn, always split in the same way: two thirds
    to train on, and one third to test on."""
    try:
        (train_images, train_labels), (test_images, test_labels) = make_digits()
    except ImportError as error:
        raise SystemExit(str(error)) from None
    return Digits(train_images, train_labels, test_images, test_labels)


def initialize(model: Classifier, digits: Digits, seed: int) -> None:
    """Initialize the model. The same seed gives the same weights, and later the same batches
    and the same dropout, with any optimizer."""
    fix_random_seed(seed)
    model.initialize(X=digits.train_images[:2], Y=digits.train_labels[:2])


def training_steps(
    model: Classifier, optimizer: Optimizer, digits: Digits, *, max_steps: int, batch_size: int
) -> Iterator[int]:
    """Train an initialized model, and yield the number of each completed step."""
    step = 0
    while step < max_steps:
        batches = model.ops.multibatch(
            batch_size, digits.train_images, digits.train_labels, shuffle=True
        )
        for images, labels in batches:
            predicted, backprop = model.begin_update(images)
            backprop((predicted - labels) / len(images))
            model.finish_update(optimizer)
            optimizer.step_schedules()
            step += 1
            yield step
            if step == max_steps:
                break


def accuracy(model: Classifier, images: Floats2d, labels: Floats2d) -> float:
    """The accuracy on the images, in percent."""
    is_right = model.predict(images).argmax(axis=1) == labels.argmax(axis=1)
    return 100.0 * float(is_right.mean())

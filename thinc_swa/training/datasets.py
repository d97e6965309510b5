"""Datasets for configs: `((train_X, train_Y), (dev_X, dev_Y))`, as in Thinc's examples.

For other data, register a function that returns the same form with `registry.datasets`.
"""

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy

from ..types import Array
from ..validation import check_bool, check_int, check_number

Split = tuple[Any, Any]
# Errors of NumPy for damaged files, and for those of another format.
_DAMAGE = (ValueError, AttributeError, EOFError, TypeError, BadZipFile, zlib.error)
Dataset = tuple[Split, Split]


def make_digits(
    dev_size: Any | float = 1 / 3, seed: Any | int = 0, one_hot: Any | bool = True
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """`digits.v1`: the 1797 handwritten digits that come with scikit-learn.

    dev_size (float): Fraction for evaluation, strictly between 0 and 1. The split is
        stratified.
    seed (int): Seed of the split.
    one_hot (bool): Whether labels are one-hot rows. Otherwise they are class indices, which
        Thinc needs for label smoothing.
    RETURNS (Dataset): Images of 8 x 8 pixels as rows of 64 float32 from 0 to 1, and labels as
        one-hot rows of 10 float32, or as int32.
    RAISES: ImportError if scikit-learn is not installed.
    """
    dev_size = check_number("dev_size", dev_size, above=0.0, maximum=1.0)
    if dev_size == 1.0:
        raise ValueError(
            "dev_size must be below 1, but was 1.0: no training data would be left"
        )
    seed = check_int("seed", seed, minimum=0)
    one_hot = check_bool("one_hot", one_hot)
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise ImportError(
            'The digits come with scikit-learn: pip install "thinc-swa[cli]"'
        ) from None
    pixels, numbers = load_digits(return_X_y=True)
    images = (pixels / 16.0).astype("float32")
    labels = numpy.eye(10, dtype="float32")[numbers] if one_hot else numbers.astype("int32")
    train_X, dev_X, train_Y, dev_Y = train_test_split(
        images, labels, test_size=dev_size, stratify=numbers, random_state=seed
    )
    return (train_X, train_Y), (dev_X, dev_Y)


def make_npz(path: Any | str | Path) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """`npz.v1`: the arrays train_X, train_Y, dev_X and dev_Y from a file of `numpy.savez`.
    Their first dimension is the number of examples. float64 becomes float32.

    path (str | Path): The file.
    RETURNS (Dataset): The arrays.
    RAISES: OSError if the file cannot be read; ValueError if it is not an .npz file, or if an
        array is missing.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            with numpy.load(file, allow_pickle=False) as arrays:
                found = {name: _as_float32(arrays[name]) for name in arrays.files}
        except _DAMAGE as error:
            raise ValueError(f"{path} is not an .npz file of arrays: {error}") from None
    names = ("train_X", "train_Y", "dev_X", "dev_Y")
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}, only {', '.join(sorted(found))}")
    train_X, train_Y, dev_X, dev_Y = (found[name] for name in names)
    return (train_X, train_Y), (dev_X, dev_Y)


def make_text(
    path: Any | None = None, length: Any | int = 32, dev_size: Any | float = 0.1
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """`text.v1`: a text for a language model of its bytes. The examples are the pieces of the
    text in their order, and the targets of each the bytes that follow: for
    `order = "streams"`.

    path (str | Path | None): A text file; by default the reference of the Python language that
        comes with Python, the texts of `help()`, which differ between versions of Python.
    length (int): Bytes per example. A remainder at the end of the text is not used.
    dev_size (float): Fraction for evaluation, strictly between 0 and 1: the end of the text.
    RETURNS (Dataset): Lists of arrays of int32 from 0 to 255, each of shape (length,).
    RAISES: OSError if the file cannot be read; ValueError if the text is too short.
    """
    length = check_int("length", length, minimum=1)
    dev_size = check_number("dev_size", dev_size, above=0.0, below=1.0)
    if path is None:
        from pydoc_data.topics import topics

        name = "The text"
        text = "\n\n".join(topics[topic] for topic in sorted(topics)).encode("utf8")
    else:
        name, text = str(path), Path(path).read_bytes()
    n_examples = (len(text) - 1) // length
    n_dev = max(1, round(dev_size * n_examples))
    if n_dev >= n_examples:
        raise ValueError(
            f"{name} has {len(text)} bytes, too few for an example of length = {length} for "
            "training and one for evaluation: use a longer text or a smaller length"
        )
    numbers = numpy.frombuffer(text, dtype="uint8").astype("int32")
    X, Y = (
        list(numbers[start : start + n_examples * length].reshape(n_examples, length))
        for start in (0, 1)
    )
    return (X[:-n_dev], Y[:-n_dev]), (X[-n_dev:], Y[-n_dev:])


def _as_float32(array: Array) -> Array:
    return array.astype("float32") if array.dtype == numpy.float64 else array


def check_dataset(dataset: Any) -> Dataset:
    """Check the form of a dataset.

    dataset (Dataset): ((train_X, train_Y), (dev_X, dev_Y)).
    RETURNS (Dataset): The same, as tuples.
    RAISES: ValueError if it has another form, or no rows.
    """
    try:
        (train_X, train_Y), (dev_X, dev_Y) = dataset
    except (TypeError, ValueError):
        raise ValueError(
            "A dataset must be ((train_X, train_Y), (dev_X, dev_Y)), but was "
            f"{type(dataset).__name__}"
        ) from None
    for name, X, Y in (("train", train_X, train_Y), ("dev", dev_X, dev_Y)):
        if len(X) != len(Y):
            raise ValueError(
                f"The dataset has {len(X)} rows of {name}_X, but {len(Y)} of {name}_Y"
            )
        if not len(X):
            raise ValueError(f"The dataset has no rows in {name}_X")
    return (train_X, train_Y), (dev_X, dev_Y)


def check_same_form(name: str, dataset: Any, main: Dataset) -> Dataset:
    """Check a further dataset of a training.

    name (str): Its name, for errors.
    dataset (Dataset): The dataset.
    main (Dataset): The dataset of the training.
    RETURNS (Dataset): The same, as tuples.
    RAISES: ValueError if it does not have the form of a dataset, or if the rows of its training
        data have another shape.
    """
    try:
        found = check_dataset(dataset)
    except ValueError as error:
        raise ValueError(f"[datasets.{name}]: {error}") from None
    for part, one, other in zip(("train_X", "train_Y"), found[0], main[0], strict=True):
        shapes = [getattr(data, "shape", (0,))[1:] for data in (one, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{part} of [datasets.{name}] has rows of the shape {shapes[0]}, but that of "
                f"[dataset] of {shapes[1]}"
            )
    return found

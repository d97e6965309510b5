"""Datasets for configs."""

import numpy
import pytest
from helpers import require
from thinc.api import registry
from tiny import make_arrays

from thinc_swa.training.datasets import make_digits, make_npz, make_text


def test_digits_have_images_labels_and_a_stratified_split():
    require("sklearn")
    (train_X, train_Y), (dev_X, dev_Y) = make_digits()
    assert (train_X.shape, train_Y.shape) == ((1198, 64), (1198, 10))
    assert (dev_X.shape, dev_Y.shape) == ((599, 64), (599, 10))
    assert train_X.dtype == train_Y.dtype == "float32"
    assert train_X.min() == 0.0 and train_X.max() == 1.0
    assert (train_Y.sum(axis=1) == 1).all() and (dev_Y.sum(axis=1) == 1).all()
    # Stratified: 59 of 178 zeros are for the evaluation.
    assert dev_Y.sum(axis=0)[0] == 59


def test_size_and_seed_of_the_split_of_digits():
    require("sklearn")
    (train_X, _), (dev_X, _) = make_digits(dev_size=0.5, seed=1)
    assert len(dev_X) == 899
    (other_X, _), _ = make_digits(dev_size=0.5, seed=2)
    assert not numpy.array_equal(train_X, other_X)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dev_size": 0.0}, "dev_size must be a number > 0 and <= 1, but was 0.0"),
        ({"dev_size": 1.0}, "dev_size must be below 1"),
        ({"seed": 0.5}, "seed must be an int >= 0, but was 0.5"),
    ],
)
def test_invalid_settings_of_digits_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        make_digits(**settings)


def test_npz_reads_arrays_and_converts_float64(tmp_path):
    arrays = make_arrays()
    arrays["dev_X"] = arrays["dev_X"].astype("float64")
    arrays["dev_Y"] = arrays["dev_Y"].argmax(axis=1)
    numpy.savez(tmp_path / "data.npz", **arrays)
    make = registry.datasets.get("npz.v1")
    (train_X, train_Y), (dev_X, dev_Y) = make(path=str(tmp_path / "data.npz"))
    for found, name in (
        (train_X, "train_X"),
        (train_Y, "train_Y"),
        (dev_X, "dev_X"),
        (dev_Y, "dev_Y"),
    ):
        numpy.testing.assert_array_equal(found, arrays[name])
    assert dev_X.dtype == "float32" and dev_Y.dtype.kind == "i"


def test_npz_of_invalid_files_is_an_error(tmp_path):
    path = tmp_path / "data.npz"
    with pytest.raises(FileNotFoundError):
        make_npz(path)
    path.write_bytes(b"no zip file")
    with pytest.raises(ValueError, match=r"data\.npz is not an \.npz file"):
        make_npz(path)
    numpy.savez(path, train_X=numpy.zeros(3), other=numpy.zeros(3))
    with pytest.raises(ValueError, match=r"has no train_Y, dev_X, dev_Y, only other, train_X"):
        make_npz(path)
    # Objects would be unpickled, which can execute code.
    numpy.savez(path, train_X=numpy.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        make_npz(path)


@pytest.mark.parametrize("save", [numpy.savez, numpy.savez_compressed])
def test_npz_of_damaged_files_is_an_error(tmp_path, save):
    path = tmp_path / "data.npz"
    save(path, **make_arrays())
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[300] ^= 255
    for data in (damaged, whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"data\.npz is not an \.npz file of arrays"):
            make_npz(path)


def test_text_has_pieces_and_the_bytes_that_follow(tmp_path):
    text = "Grüße an alle, die lesen.".encode()
    (tmp_path / "text.txt").write_bytes(text)
    make = registry.datasets.get("text.v1")
    (train_X, train_Y), (dev_X, dev_Y) = make(
        path=str(tmp_path / "text.txt"), length=4, dev_size=0.3
    )
    assert (len(train_X), len(train_Y), len(dev_X), len(dev_Y)) == (4, 4, 2, 2)
    assert {row.shape for row in train_X + train_Y + dev_X + dev_Y} == {(4,)}
    assert train_X[0].dtype == "int32"
    assert b"".join(bytes(row.tolist()) for row in train_X + dev_X) == text[:24]
    assert b"".join(bytes(row.tolist()) for row in train_Y + dev_Y) == text[1:25]


def test_text_that_comes_with_python():
    (train_X, _), (dev_X, _) = make_text()
    text = numpy.concatenate(train_X + dev_X).astype("uint8").tobytes().decode(errors="ignore")
    assert len(text) > 100_000 and 'The "assert" statement' in text


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"length": 0}, "length must be an int >= 1, but was 0"),
        ({"dev_size": 1.0}, "dev_size must be a number > 0 and < 1, but was 1.0"),
        ({"length": 6}, "text.txt has 10 bytes, too few for an example of length = 6"),
    ],
)
def test_invalid_settings_of_texts_are_errors(tmp_path, settings, message):
    (tmp_path / "text.txt").write_bytes(b"0123456789")
    with pytest.raises(ValueError, match=message):
        make_text(tmp_path / "text.txt", **settings)

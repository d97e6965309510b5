"""Globs: what they match, next to Python's own where it has the same."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinc_swa.globs import Glob


def match(text, path, name=""):
    return Glob.make("params", text).match((1, name), path)


@given(
    st.text("ab*?[[]]!-/.\\^&|~", min_size=1, max_size=8),
    st.text("ab!-/.\\^]&|", max_size=6),
)
def test_like_pythons_own(text, path):
    try:
        ours = match(text, path, path)
    except ValueError as error:
        assert "bad character range" in str(error)  # "[b-a]"
    else:
        assert (ours is not None) == fnmatchcase(path, text)


@pytest.mark.parametrize(
    "text, path, number",
    [
        ("*layers.#.*", "encoder.layers.12.weight", 12),
        # The first from the left.
        ("*layers.#.*", "layers.1.layers.2.weight", 1),
        ("*#*", "a1b2", 1),
        ("*/residual-#/*", "chain-3/residual-10/maxout/W", 10),
        ("[#]#", "#7", 7),
        ("[!#]#", "a7", 7),
    ],
)
def test_numbers(text, path, number):
    assert int(match(text, path).group(1)) == number


@pytest.mark.parametrize("path", ["layers.x.W", "layers..W", "layers.1.2.W", "layers.-1.W"])
def test_no_numbers(path):
    assert match("layers.#.W", path) is None


def test_names_of_parameters():
    assert match("*bias", "pytorch/0.weight", "0.bias")
    assert match("pytorch*", "pytorch/0.bias", "0.bias")
    assert match("0*", "pytorch/0.bias", "0.bias")
    assert match("*/0*", "pytorch/0.bias", "0.bias")
    assert not match("/0*", "pytorch/0.bias", "0.bias")
    assert not match("BIAS", "pytorch/bias", "bias")

"""Glob patterns, compared with `fnmatch` where it has the same syntax."""

import re
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinc_swa.param_groups.patterns import Glob


def match(text, path, name=""):
    """Match a path or a parameter name with a glob."""
    return Glob.make("params", text).match((1, name), path)


@settings(deadline=None)
@given(
    st.text("ab*?[[]]!-/.\\^&|~", min_size=1, max_size=8),
    st.text("ab!-/.\\^]&|", max_size=6),
)
def test_agrees_with_fnmatch(text, path):
    try:
        ours = match(text, path, path)
    except ValueError as error:
        assert "bad character range" in str(error)  # For example, "[b-a]".
    else:
        assert (ours is not None) == fnmatchcase(path, text)


@pytest.mark.parametrize(
    "text, path, number",
    [
        ("*layers.#.*", "encoder.layers.12.weight", 12),
        # The leftmost number counts.
        ("*layers.#.*", "layers.1.layers.2.weight", 1),
        ("*#*", "a1b2", 1),
        ("*/residual-#/*", "chain-3/residual-10/maxout/W", 10),
        ("[#]#", "#7", 7),
        ("[!#]#", "a7", 7),
    ],
)
def test_number_of_a_match(text, path, number):
    assert int(match(text, path)["number"]) == number


def simple_match(text, path):
    """A simple implementation without brackets, as the oracle."""
    special = {"*": ".*?", "?": ".", "#": r"(\d+)"}
    return re.fullmatch("".join(special.get(c) or re.escape(c) for c in text), path, re.DOTALL)


@settings(deadline=None)
@given(
    st.text("ab1*?.", max_size=6), st.text("ab1*?.", max_size=6), st.text("ab12.", max_size=9)
)
def test_numbers_agree_with_a_simple_implementation(before, after, path):
    ours, expected = (
        match(f"{before}#{after}", path, "?"),
        simple_match(f"{before}#{after}", path),
    )
    assert (ours and ours.string == path and ours["number"]) == (expected and expected[1])


SLOW = [
    "*" * 30 + "z",
    "*a" * 20 + "*b",
    "*a*?" * 15 + "z",
    "*#*a" + "*a" * 15 + "*b",
    "*[ab]" * 20 + "#",
]


@pytest.mark.parametrize("text", SLOW)
def test_matching_many_stars_is_fast(text):
    """Backtracking over all positions of each star would take minutes or years."""
    start = time.perf_counter()
    assert match(text, "a1" * 200, "a" * 400) is None or text.endswith("#")
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize("path", ["layers.x.W", "layers..W", "layers.1.2.W", "layers.-1.W"])
def test_hash_matches_only_whole_numbers(path):
    assert match("layers.#.W", path) is None


def test_parameter_names_are_matched_too():
    assert match("*bias", "pytorch/0.weight", "0.bias")
    assert match("pytorch*", "pytorch/0.bias", "0.bias")
    assert match("0*", "pytorch/0.bias", "0.bias")
    assert match("*/0*", "pytorch/0.bias", "0.bias")
    assert not match("/0*", "pytorch/0.bias", "0.bias")
    assert not match("BIAS", "pytorch/bias", "bias")

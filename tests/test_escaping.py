"""Names and messages from outside, in folders and in texts."""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinc_swa.escaping import (
    MAX_LENGTH,
    as_code,
    folder_name,
    for_encoding,
    for_markdown,
    printable,
)

NAMES = st.text(st.characters(codec=None, categories=None), max_size=200)


@pytest.mark.parametrize("name", ["adam", "lookahead_swa", "adam-0.01", "_x", "a..b", "0"])
def test_simple_names_are_folders_as_they_are(name):
    assert folder_name(name) == name


@pytest.mark.parametrize(
    "name, folder",
    [
        ("/-a", "a-"),
        ("..", "run-5ec1f7e7"),
        (".hidden", "hidden-"),
        ("", "run-e3b0c442"),
        ("a/b", "a-b-c14cddc0"),
        ("a\\b", "a-b-"),
        ("a\nb", "a-b-"),
        ("Adam", "Adam-"),
        ("con", "con-"),
        ("com1.x", "com1-x-"),
        ("größe", "gr-e-"),
        ("ends.", "ends-"),
        ("\udcff", "run-"),
    ],
)
def test_other_names_get_a_digest(name, folder):
    found = folder_name(name)
    assert found.startswith(folder)
    assert re.fullmatch(r"[A-Za-z0-9_-]+-[0-9a-f]{8}", found)


@given(NAMES, NAMES)
def test_folder_names_are_safe_and_distinct(name, other):
    for text in (name, other):
        found = folder_name(text)
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", found) and found[-1] != "."
        assert len(found) <= MAX_LENGTH + 9
    if name != other:
        assert folder_name(name).casefold() != folder_name(other).casefold()


def test_names_that_differ_in_case_have_different_folders():
    assert len({folder_name(name).casefold() for name in ("adam", "Adam", "ADAM")}) == 3


@given(NAMES)
def test_printable_text_can_be_written_anywhere(text):
    found = printable(text)
    assert found.isprintable()
    found.encode("utf8")
    assert printable(found) == found
    assert for_encoding(found, "ascii").isascii()


def test_bytes_that_are_not_utf8_are_written_out():
    assert printable(os.fsdecode(b"a\xff.cfg")) == "a\\xff.cfg"
    assert printable("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert printable("größe 猫") == "größe 猫"


def test_characters_that_a_terminal_does_not_have():
    assert for_encoding("97.2 ± 0.3 ■", "ascii") == "97.2 +/- 0.3 #"
    assert for_encoding("97.2 ± 0.3", "utf8") == "97.2 ± 0.3"
    assert for_encoding("97.2 ± 0.3", "latin1") == "97.2 ± 0.3"
    assert for_encoding("猫", "ascii") == "\\u732b"


def test_markdown():
    assert for_markdown("lookahead_swa 97.2 ± 0.3") == "lookahead_swa 97.2 ± 0.3"
    assert for_markdown("a|b [x] *y* `z` <b> $1$") == (r"a\|b \[x\] \*y\* \`z\` \<b\> \$1\$")
    assert for_markdown("_x_ a_b __y__") == r"\_x\_ a_b \_\_y\_\_"
    assert as_code("a = 1") == "`a = 1`"
    assert as_code("a = '`'") == "`` a = '`' ``"

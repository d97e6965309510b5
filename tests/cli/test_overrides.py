"""Config overrides on the command line."""

import pytest
from helpers import require

require("typer")

from thinc_swa.cli.errors import UsageError  # noqa: E402
from thinc_swa.cli.overrides import config_and_overrides, split_overrides, spread  # noqa: E402

OVERRIDES = [
    (["a.cfg"], ["a.cfg"], {}),
    (["--training.max_steps", "5", "a"], ["a"], {"training.max_steps": 5}),
    (["a", "--a.b=0.5", "b", "--c.d=x y"], ["a", "b"], {"a.b": 0.5, "c.d": "x y"}),
    (["--a.b", "null", "--c.d", "[1, 2]"], [], {"a.b": None, "c.d": [1, 2]}),
    (["--a.b", "-1"], [], {"a.b": -1}),
    (["--a.b", "0.7"], [], {"a.b": 0.7}),
    (["--a.b", "x=y"], [], {"a.b": "x=y"}),
    (["--a.b=x=y", "--c.d="], [], {"a.b": "x=y", "c.d": ""}),
    # Without a value, an override is a flag.
    (["--a.b"], [], {"a.b": True}),
    (["--a.b", "--c.d", "3"], [], {"a.b": True, "c.d": 3}),
    (["--paths.train", "./corpus//train.spacy"], [], {"paths.train": "./corpus//train.spacy"}),
    # Hyphens in names are kept, or with "=" replaced.
    (["--components.my-ner.size", "3"], [], {"components.my-ner.size": 3}),
    (["--training.max-steps=3"], [], {"training.max_steps": 3}),
]


@pytest.mark.parametrize("arguments, positional, overrides", OVERRIDES)
def test_overrides_are_separated_from_positional_arguments(arguments, positional, overrides):
    assert split_overrides(arguments) == (positional, overrides)


@pytest.mark.parametrize(
    "arguments, positional, overrides",
    # spaCy reads numbers with ujson, which rounds.
    [case for case in OVERRIDES if not case[1] and "0.7" not in case[0]],
)
def test_overrides_are_parsed_as_by_spacy(arguments, positional, overrides):
    require("spacy")
    from spacy.cli._util import parse_config_overrides

    assert parse_config_overrides(list(arguments), env_var=None) == overrides


@pytest.mark.parametrize("argument", ["--unknown", "-x", "--unknown=3.5"])
def test_other_options_are_an_error(argument):
    with pytest.raises(UsageError, match=f"No such option: {argument}"):
        split_overrides(["a.cfg", argument])


def test_a_command_for_one_config_finds_it_at_any_position():
    expected = ("a.cfg", {"a.b": 1})
    assert config_and_overrides("a.cfg", ["--a.b", "1"]) == expected
    assert config_and_overrides("--a.b", ["1", "a.cfg"]) == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--a.b", "1"], "Missing argument 'CONFIG'"),
        (["a.cfg", "b.cfg"], "Invalid config override 'b.cfg': name should start with --"),
    ],
)
def test_a_command_for_one_config_requires_exactly_one(arguments, message):
    first, *rest = arguments
    with pytest.raises(UsageError, match=message):
        config_and_overrides(first, rest)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (
            "a.cfg --optimizers b c --seeds 3 --optimizers d",
            "a.cfg --optimizers b --optimizers c --seeds 3 --optimizers d",
        ),
        ("--optimizers=a b", "--optimizers a --optimizers b"),
        ("c --optimizers=a b --seeds 1 d", "c --optimizers a --optimizers b --seeds 1 d"),
        ("--optimizers a -- b --optimizers", "--optimizers a -- b --optimizers"),
        ("--optimizers-of a b", "--optimizers-of a b"),
    ],
)
def test_an_option_is_repeated_for_each_of_its_values(arguments, expected):
    assert spread(arguments.split(), "--optimizers") == expected.split()


@pytest.mark.parametrize(
    "arguments",
    [["--optimizers"], ["a", "--optimizers", "--seeds", "1"], ["--optimizers=", "a"]],
)
def test_an_option_without_values_is_an_error(arguments):
    with pytest.raises(UsageError, match="Option '--optimizers' requires an argument"):
        spread(arguments, "--optimizers")

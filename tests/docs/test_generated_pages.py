"""The generated pages: every config name with every argument, every command with every option,
every public name of the API."""

import inspect
import json
import re

import pytest
from helpers import require

import thinc_swa
import thinc_swa.training

from api import api_pages  # isort: skip
from config_reference import arguments, config_reference, registered  # isort: skip
from repository import configs_page, examples_page, repository_files  # isort: skip
from thinc_docstrings import parse  # isort: skip

FUNCTIONS = {name: f for names in registered().values() for name, f in names.items()}
DOCSTRING = """\
Do something with `a * b`: "*norm*".

More about it, with 2 * 3:

    a * b

first (int | float): The first, for
    "*" too.
second (Callable[[int], str]): The second.
RETURNS (dict[str, int]): What
    it did.
RAISES: ValueError if it is wrong; a TypeError is another; OSError if it is
    not there.
"""


def tables():
    """The rows of the tables of the config reference, by name."""
    found = {}
    for section in config_reference().split("\n### ")[1:]:
        name, _, text = section.partition("\n")
        cells = re.findall(r"^\| `(\w+)` \| `[^`]+` \| ([^|]*) \| (.*) \|$", text, re.MULTILINE)
        found[name] = {argument: (default, text) for argument, default, text in cells}
    return found


def test_every_name_of_setup_cfg_is_in_the_config_reference():
    assert set(tables()) == set(FUNCTIONS)
    assert {"SWA.v1", "cosine.v1", "digits.v1"} <= set(FUNCTIONS)
    # Those with the prefix of the package only where there are no others.
    assert [name for name in FUNCTIONS if name.startswith("thinc_swa.")] == [
        "thinc_swa.register_parameter_paths.v1",
        "thinc_swa.ConsoleLogger.v1",
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_has_its_default_and_a_meaning(name):
    rows = tables()[name]
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    assert list(rows) == list(parameters)
    for argument, parameter in parameters.items():
        default, meaning = rows[argument]
        assert meaning[0].isupper() and meaning.endswith(".")
        if parameter.kind is parameter.VAR_POSITIONAL:
            assert default == "–"
        elif parameter.default is parameter.empty:
            assert default == "required"
        elif parameter.default is None:
            assert default == "–"
        else:
            assert json.loads(default.strip("`")) == parameter.default


def test_an_argument_without_documentation_is_an_error():
    def undocumented(first, second):
        """Do something.

        first (int): The first.
        """

    with pytest.raises(ValueError, match="does not document the argument 'second'"):
        list(arguments(undocumented))


def test_a_docstring_in_thincs_style_is_parsed():
    found = parse(DOCSTRING)
    assert found.prose == (
        'Do something with `a * b`: "\\*norm\\*".\n\nMore about it, with 2 \\* 3:\n\n    a * b'
    )
    assert [(a.name, a.type, a.text) for a in found.arguments] == [
        ("first", "int | float", 'The first, for "\\*" too.'),
        ("second", "Callable[[int], str]", "The second."),
    ]
    assert (found.returns.type, found.returns.text) == ("dict[str, int]", "What it did.")
    assert [(error.name, error.text) for error in found.raises] == [
        ("ValueError", "if it is wrong; a TypeError is another"),
        ("OSError", "if it is not there."),
    ]


def test_a_docstring_becomes_googles():
    lines = parse(DOCSTRING).to_google().splitlines()
    assert "Args:" in lines and "    second (Callable[[int], str]): The second." in lines
    assert lines[lines.index("Returns:") + 1] == "    dict[str, int]: What it did."
    assert lines[lines.index("Raises:") + 2] == "    OSError: if it is not there."


def test_every_option_is_in_the_page_of_the_command_line():
    require("typer")
    from command_line import command_line
    from typer.main import get_command

    from thinc_swa.cli.main import app

    page = command_line()
    commands = get_command(app).commands
    assert {"train", "compare", "params", "info"} <= set(commands)
    for name, command in commands.items():
        section = page.split(f"\n## thinc-swa {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            names = [parameter.name.upper()]
            if parameter.param_type_name == "option":
                names = parameter.opts
            assert all(f"`{option}`" in section for option in names)
        assert section.count("\n| ") == len(command.params) + 3


def test_every_public_name_is_in_the_api():
    pages = "\n".join(api_pages().values())
    names = re.findall(r"^::: thinc_swa\.(?:training\.)?(\w+)$", pages, re.MULTILINE)
    public = {*thinc_swa.__all__, *thinc_swa.training.__all__} - {"__version__"}
    assert set(names) == public and len(names) == len(public)


def test_every_example_and_config_has_its_place():
    root = repository_files()["changelog.md"].parent
    examples, configs = examples_page(), configs_page()
    for path in (root / "examples").glob("[0-9]*.py"):
        assert f'"examples/{path.name}"' in examples
    for path in (root / "configs").rglob("*.cfg"):
        assert f'"{path.relative_to(root).as_posix()}"' in configs
    # What can be unfolded is indented: beside it are only descriptions and commands.
    shown = [line for line in configs.splitlines() if not line.startswith("    ")]
    assert not any(re.fullmatch(r"\[.*\]", line) for line in shown)
    n_examples = len(list((root / "examples").glob("[0-9]*.py")))
    assert examples.count("```bash\npython examples/") == n_examples

"""`python -m spacy swa ...`."""

import pytest
from helpers import require

require("spacy")
require("typer")
from pipelines import run_python, run_spacy  # noqa: E402

MISSING = """
import sys
sys.modules["rich"] = None
sys.argv = ["spacy", *sys.argv[1:]]
from spacy.cli import setup_cli
setup_cli()
"""


def test_spacy_lists_the_commands(tmp_path):
    result = run_spacy(tmp_path, "--help")
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.split()[:1] == ["swa"]]
    assert "Weight averaging" in line


@pytest.mark.slow
def test_help_names_the_program(tmp_path):
    result = run_spacy(tmp_path, "swa", "compare", "--help")
    assert result.stdout.startswith("Usage: python -m spacy swa compare [OPTIONS]")


@pytest.mark.slow
def test_commands_are_those_of_thinc_swa(tmp_path):
    result = run_spacy(tmp_path, "swa", "info")
    own = run_python(tmp_path, "from thinc_swa.__main__ import main; main(['info'])")
    assert result.returncode == own.returncode == 0
    assert result.stdout == own.stdout


@pytest.mark.parametrize(
    "arguments, exit_code, message",
    [
        (["train", "missing.cfg"], 1, "Error: No such file or directory: missing.cfg"),
        pytest.param(["train", "missing.cfg", "--oops"], 2, "oops", marks=pytest.mark.slow),
        pytest.param(["nothing"], 2, "No such command", marks=pytest.mark.slow),
    ],
)
def test_exit_codes_and_errors(arguments, exit_code, message, tmp_path):
    result = run_spacy(tmp_path, "swa", *arguments)
    assert result.returncode == exit_code
    assert message in result.stderr


def test_spacy_works_without_the_packages_of_the_command_line(tmp_path):
    result = run_python(tmp_path, MISSING, "swa", "info")
    assert result.returncode == 1
    assert 'pip install "thinc-swa[cli]"' in result.stderr
    result = run_python(tmp_path, MISSING, "info", "--silent")
    assert result.returncode == 0, result.stderr

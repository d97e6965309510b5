"""`thinc-swa info`."""

import inspect
import json
import subprocess
import sys
from importlib.metadata import distribution

from helpers import require, run_command

require("typer")
require("rich")
require("matplotlib")
require("scipy")


def test_info_names_everything_with_its_arguments(tmp_path):
    result = run_command(tmp_path, "info")
    assert result.returncode == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    names = 0
    for entry_point in distribution("thinc-swa").entry_points:
        is_twin = (
            entry_point.name.startswith("thinc_swa.") and entry_point.group != "spacy_callbacks"
        )
        if entry_point.group in ("console_scripts", "spacy_cli") or is_twin:
            continue
        place = lines.index(entry_point.name)
        parameters = list(inspect.signature(entry_point.load()).parameters.values())
        shown = lines[place + 1 : place + 1 + len(parameters)]
        for line, parameter in zip(shown, parameters, strict=True):
            if parameter.default is parameter.empty:
                assert line == f"{parameter.name} (required)"
            else:
                name, value = line.split(" = ")
                assert (name, json.loads(value)) == (parameter.name, parameter.default)
        names += 1
    assert names >= 5
    assert any(line.startswith("thinc ") for line in lines)


def test_a_closed_pipe_is_not_an_error(tmp_path):
    command = f"{sys.executable} -m thinc_swa info | head -n 1"
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.startswith("python") and "Error" not in result.stderr

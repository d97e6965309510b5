"""Fixtures for tests of commands."""

from typing import NamedTuple

import pytest


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys, monkeypatch):
    """Like `helpers.run_command`, in this process, which takes less time."""
    # The command line is optional: test modules require it.
    from thinc_swa.cli.main import main

    def run(folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("NO_COLOR", "1")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments], prog_name="thinc-swa")
        return Result(ended.value.code, *capsys.readouterr())

    return run

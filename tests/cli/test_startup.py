"""Start of the program: Ctrl-C during imports, and missing packages."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import require, run_command

require("typer")
require("rich")
require("matplotlib")
require("scipy")


ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("program", ["module", "script"])
def test_ctrl_c_during_startup_prints_one_line(tmp_path, program, interruptible):
    """While Thinc is imported."""
    (tmp_path / "thinc").mkdir()
    (tmp_path / "thinc" / "__init__.py").write_text(
        "import time; print('importing', flush=True); time.sleep(60)"
    )
    script = tmp_path / "thinc-swa"
    script.write_text("from thinc_swa.__main__ import main; main()")
    command = [script] if program == "script" else ["-m", "thinc_swa"]
    process = subprocess.Popen(
        [sys.executable, *command, "info"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (130, "Error: Stopped\n")


def test_importing_the_package_does_not_change_ctrl_c():
    code = """
import signal, sys
handler = signal.getsignal(signal.SIGINT)
import thinc_swa
assert signal.getsignal(signal.SIGINT) is handler
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_missing_packages_are_named(tmp_path):
    for name in ("typer", "rich"):
        (tmp_path / name).mkdir()
        missing = f"raise ModuleNotFoundError('no {name}', name='{name}')"
        (tmp_path / name / "__init__.py").write_text(missing)
    result = run_command(tmp_path, "info", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.strip() == (
        'The command line needs more packages: pip install "thinc-swa[cli]"'
    )

"""The example for spaCy pipelines."""

import subprocess
import sys

import pytest
from helpers import require

require("spacy")
from pipelines import ROOT, run_python  # noqa: E402

EXAMPLE = ROOT / "examples" / "4_spacy_pipeline.py"


@pytest.mark.slow
def test_example_prints_scores(tmp_path):
    command = [sys.executable, EXAMPLE, "--config", "ema", "--steps", "60", "--seeds", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    title, note, header, seed, mean = result.stdout.splitlines()
    assert title == "60 steps with configs/spacy/ema.cfg: F-scores"
    assert seed.split()[1:] == mean.split()[1:]
    raw, averaged = map(float, mean.split()[1:])
    assert raw > 0 and averaged > 0 and raw != averaged


def test_example_without_spacy_prints_one_line(tmp_path):
    code = f"""
import runpy, sys

sys.modules["spacy"] = None  # As if it was not installed.
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""
    result = run_python(tmp_path, code)
    assert result.returncode == 1
    assert result.stderr == "This example needs spaCy: pip install 'spacy>=3.8.7,<3.9'\n"

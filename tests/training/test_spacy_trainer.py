"""Trainings of spaCy configs give the weights, scores and files of `spacy train`, also when
they are interrupted after any step and resumed."""

import random

import pytest
from helpers import require

require("spacy", "filelock")

from spacy_config_cases import CASES, make_case  # noqa: E402
from spacy_trainings import (  # noqa: E402
    differing,
    results_of,
    train_in_parts,
    train_with_spacy,
)

NAMES = ("model-best", "model-last")
QUICK = ("patience",)


@pytest.fixture
def case(request, tmp_path, monkeypatch):
    """A config."""
    return make_case(request.param, tmp_path / "case", monkeypatch)


@pytest.mark.filterwarnings("ignore::UserWarning:spacy")
@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CASES],
    indirect=True,
)
def test_results_are_those_of_spacy_train(case, tmp_path):
    expected = train_with_spacy(case, tmp_path / "spacy")
    calls, trainer = train_in_parts(case, tmp_path / "output")
    for name in NAMES:
        assert differing(tmp_path / "spacy" / name, tmp_path / "output" / name) == []
    assert calls == expected
    n_steps = trainer.state.step
    whole = results_of(tmp_path / "output")
    assert [type(call) for call in calls[1:-1]].count(dict) == len(trainer.state.evaluations)
    # Interruptions before, at and after evaluations, and in several epochs.
    chooser = random.Random(n_steps)
    steps = sorted(chooser.sample(range(1, n_steps), 3))
    calls, _ = train_in_parts(case, tmp_path / "resumed", *steps)
    files, records = results_of(tmp_path / "resumed")
    assert differing(files, whole[0]) == [], steps
    assert records == whole[1], steps
    for name in NAMES:
        assert differing(tmp_path / "spacy" / name, tmp_path / "resumed" / name) == [], steps
    assert calls == expected

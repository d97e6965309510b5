"""`start_step = "plateau"`: the start of averaging by the scores of evaluations."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optimizer_states import state_of
from reference import assert_close, make_weights, mean, train
from scalar_runs import scalar_run
from thinc.api import SGD, Adam, registry
from update_events import make_small_model, replay

from thinc_swa import EMA, SWA, OptimizerWrapper, load_optimizer, save_optimizer
from thinc_swa.optimizers.scores import report_score, scores_are_reported
from thinc_swa.optimizers.unresolved import UnresolvedOptimizer

CONFIG = {
    "@optimizers": "SWA.v1",
    "start_step": "plateau",
    "plateau_evals": 2,
    "optimizer": {"@optimizers": "SGD.v1", "learn_rate": 0.1},
}


def start_of(scores, n):
    """The index of the score that starts averaging by the definition: lower than the best of
    all but the last n before it."""
    for index, score in enumerate(scores):
        earlier = scores[: max(0, index - n)]
        if earlier and score < max(earlier):
            return index
    return None


def test_by_hand():
    """With n = 2: 4 is the first score that is lower than the best before the last two, 5."""
    optimizer = SWA(SGD(0.1), start_step="plateau", plateau_evals=2)
    scalar_run(optimizer, 1)
    started = []
    for score in [1, 5, 2, 6, 4]:
        report_score(optimizer, score)
        started.append(optimizer.n_averaged)
    assert started == [0, 0, 0, 0, 1]
    assert optimizer.start_step == 1


@given(scores=st.lists(st.floats(0, 1), max_size=30), n=st.integers(1, 6))
def test_is_the_rule_of_nt_asgd(scores, n):
    optimizer = SWA(SGD(0.1), start_step="plateau", plateau_evals=n)
    scalar_run(optimizer, 1)
    started = None
    for index, score in enumerate(scores):
        optimizer.add_score(score)
        if started is None and optimizer.n_averaged:
            started = index
    assert started == start_of(scores, n)


def test_the_weights_at_the_plateau_are_the_first_snapshot():
    optimizer = SWA(Adam(0.1), start_step="plateau", plateau_evals=1, freq=2)
    weights = make_weights()
    scores = {3: 1.0, 6: 0.5, 9: 0.5, 12: 0.7}  # 0.5 after step 9 is lower than 1.0.
    after = {step: (lambda s=score: optimizer.add_score(s)) for step, score in scores.items()}
    history = train(optimizer, weights, 14, after=after)
    assert_close(optimizer.averages, mean([history[9], history[11], history[13]]))


def test_scores_reach_wrapped_optimizers():
    swa = SWA(SGD(0.1), start_step="plateau", plateau_evals=1)
    optimizer = EMA(OptimizerWrapper(swa))
    scalar_run(optimizer, 1)
    for score in (3, 2, 1):
        report_score(optimizer, score)
    assert swa.n_averaged == 1
    report_score(SGD(0.1), 1.0)  # Other optimizers take no notice.


def test_nan_is_no_score():
    optimizer = SWA(SGD(0.1), start_step="plateau", plateau_evals=1)
    scalar_run(optimizer, 1)
    for score in (1.0, math.nan, math.nan, 1.0):
        optimizer.add_score(score)
    assert not optimizer.n_averaged
    optimizer.add_score(0.5)
    assert optimizer.n_averaged == 1


@pytest.mark.parametrize("n_before", range(6))
def test_resuming_between_evaluations(n_before, tmp_path):
    scores = [0.1, 0.5, 0.4, 0.6, 0.3, 0.2]
    model, optimizer = make_small_model(), SWA(Adam(0.1), start_step="plateau", plateau_evals=2)

    def run(model, optimizer, scores, start):
        for index, score in enumerate(scores):
            replay(model, optimizer, ["all"], start + index)
            optimizer.add_score(score)

    run(model, optimizer, scores[:n_before], 0)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other_model = make_small_model()
    other_model.from_bytes(model.to_bytes())
    other = SWA(Adam(0.1), start_step="plateau", plateau_evals=2)
    load_optimizer(tmp_path / "optimizer", other, other_model)
    run(model, optimizer, scores[n_before:], n_before)
    run(other_model, other, scores[n_before:], n_before)
    assert state_of(other, other_model) == state_of(optimizer, model)
    assert optimizer.n_averaged


def test_a_config_needs_a_loop_that_reports_scores():
    """As in `spacy train`: the optimizer can be made, but not trained with."""
    optimizer = registry.resolve({"optimizer": CONFIG})["optimizer"]
    assert isinstance(optimizer, UnresolvedOptimizer)
    with pytest.raises(
        ValueError, match='start_step = "plateau" needs evaluation scores.*train'
    ):
        scalar_run(optimizer, 1)
    with scores_are_reported():
        optimizer = registry.resolve({"optimizer": CONFIG})["optimizer"]
    assert isinstance(optimizer, SWA)
    scalar_run(optimizer, 1)


@pytest.mark.parametrize("value", ["platau", "", "3"])
def test_other_strings(value):
    with pytest.raises(
        ValueError, match="start_step must be an int.*'plateau' or 'phase', but was"
    ):
        SWA(SGD(0.1), start_step=value)


@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_bad_number_of_evaluations(value):
    with pytest.raises(ValueError, match="plateau_evals must be an int >= 1"):
        SWA(SGD(0.1), start_step="plateau", plateau_evals=value)


def test_phase_waits_for_start_swa():
    optimizer = SWA(SGD(0.1, use_averages=False), start_step="phase")
    assert optimizer.waits_for_phase and "start_step='phase'" in repr(optimizer)
    assert optimizer.start_step is None
    optimizer.start_swa()
    assert optimizer.start_step == 0
    assert not SWA(SGD(0.1), start_step=3).waits_for_phase

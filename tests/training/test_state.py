"""State of a training, with numbers that can be checked by hand."""

import json

import pytest

from thinc_swa.training.state import TrainerState

NAN = float("nan")


def make_state(*scores):
    """A state with an evaluation every 10 steps, and these scores of the raw weights."""
    state = TrainerState()
    for score in scores:
        state.step += 10
        state.add_evaluation(score, None)
    return state


def add_step(state, losses, **settings):
    defaults = {"epoch": 0, "learn_rate": 0.1, "n_averaged": None, "seconds": 0.5}
    state.add_step(losses, **{**defaults, **settings})


def test_losses_are_summed_by_name_until_the_evaluation():
    state = TrainerState()
    add_step(state, {"tagger": 1.0, "ner": 2.0})
    add_step(state, {"ner": 4.0}, epoch=1, learn_rate=0.2, n_averaged=3)
    assert (state.step, state.epoch, state.loss, state.seconds) == (2, 1, 4.0, 1.0)
    assert (state.losses, state.n_losses) == ({"tagger": 1.0, "ner": 6.0}, 2)
    evaluation = state.add_evaluation(0.5, 0.6, other_scores={"ents_f": 0.6})
    assert (evaluation.step, evaluation.epoch, evaluation.loss) == (2, 1, 3.5)
    assert (evaluation.learn_rate, evaluation.n_averaged, evaluation.score) == (0.2, 3, 0.6)
    assert evaluation.other_scores == {"ents_f": 0.6}
    assert (state.losses, state.n_losses, state.mean_loss) == ({}, 0, 0.0)
    assert state.is_evaluated
    add_step(state, {"ner": 4.0})
    assert not state.is_evaluated


def test_the_best_evaluation_is_the_first_with_the_highest_score():
    state = make_state(0.5, 0.7, 0.6, 0.7)
    assert (state.best_score, state.best_step) == (0.7, 20)
    assert state.best is state.evaluations[1]
    assert state.steps_without_improvement == 20


def test_the_score_of_the_averages_decides():
    state = make_state(0.5)
    assert not state.add_evaluation(0.9, 0.4).is_best
    assert state.add_evaluation(0.1, 0.6).is_best


def test_without_evaluations_there_is_no_best_score():
    state = TrainerState()
    assert state.best is state.best_score is state.best_step is None
    assert state.steps_without_improvement == 0 and not state.is_evaluated


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([NAN, -0.5, NAN, -0.6, -0.4], [True, True, False, False, True]),
        ([NAN, NAN, NAN, -0.6, NAN], [True, False, False, True, False]),
        ([-float("inf"), NAN, -0.5, float("inf"), NAN], [True, False, True, True, False]),
    ],
)
def test_nan_is_best_only_before_the_first_number(scores, expected):
    assert [found.is_best for found in make_state(*scores).evaluations] == expected


def test_the_saved_state_is_restored_exactly():
    state = make_state(1 / 3, 0.1)
    add_step(state, {"ner": 1 / 7}, seconds=1 / 3)
    state.extra = {"position": [3, "a"]}
    state.total_steps, state.stop_reason, state.error = 100, "patience", KeyError("key")
    restored = TrainerState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert restored.to_dict() == state.to_dict()
    assert restored.evaluations == state.evaluations
    assert (restored.run_id, restored.step, restored.losses) == (
        state.run_id,
        21,
        {"ner": 1 / 7},
    )
    # These are not saved.
    assert restored.total_steps is restored.stop_reason is restored.error is None


def test_every_training_has_another_id():
    assert TrainerState().run_id != TrainerState().run_id


@pytest.mark.parametrize("change", [{"more": 1}, {"evaluations": [{"step": 1}]}])
def test_other_values_are_an_error(change):
    with pytest.raises(ValueError):
        TrainerState.from_dict({**TrainerState().to_dict(), **change})
    with pytest.raises(ValueError, match="The state of a training must have"):
        TrainerState.from_dict({})

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import KEYS, assert_close, due, make_weights, mean, train
from scalar_runs import averaged, scalar_run
from thinc.api import SGD, Adam

from thinc_swa import LAWA, forget_missing
from thinc_swa.averaging.window_average import WindowAverage


def test_by_hand():
    """Weights 0.9, 0.8, 0.7, 0.6 …: the mean of all while there are fewer than three."""
    for n_steps, expected in [(1, 0.9), (2, 0.85), (3, 0.8), (4, 0.7), (7, 0.4)]:
        optimizer = LAWA(SGD(0.1), window=3, freq=1)
        scalar_run(optimizer, n_steps)
        assert averaged(optimizer) == pytest.approx(expected, rel=1e-6)
        assert optimizer.n_averaged == min(n_steps, 3)


def test_every_freq_steps_from_the_start():
    optimizer = LAWA(SGD(0.1), window=2, freq=3, start_step=1)  # After steps 1, 4, 7
    scalar_run(optimizer, 8)
    assert averaged(optimizer) == pytest.approx((0.6 + 0.3) / 2, rel=1e-6)


@settings(deadline=None, max_examples=100)
@given(
    n_steps=st.integers(1, 40),
    window=st.integers(1, 6),
    freq=st.integers(1, 5),
    start_step=st.integers(0, 20),
    is_stepped=st.booleans(),
    skipped=st.sets(st.integers(1, 40)),
)
def test_is_the_mean_of_the_last_snapshots(
    n_steps, window, freq, start_step, is_stepped, skipped
):
    optimizer = LAWA(Adam(0.1), window=window, freq=freq, start_step=start_step)
    history = train(
        optimizer,
        make_weights(),
        n_steps,
        is_stepped=is_stepped,
        is_updated=lambda step, key: key == (3, "W") or step not in skipped,
    )
    snapshots = [history[step] for step in due(start_step, freq, n_steps)][-window:]
    averages = optimizer.averages
    assert optimizer.n_averaged == len(snapshots)
    if not snapshots:
        assert not averages
        return
    expected = mean(snapshots)
    # A parameter that has never been updated is not known.
    updated = [key for key in KEYS if key == (3, "W") or set(range(1, n_steps + 1)) - skipped]
    assert_close(averages, {key: expected[key] for key in updated})


def test_the_trajectory_is_that_of_the_wrapped_optimizer():
    weights, alone = make_weights(), make_weights()
    train(LAWA(Adam(0.1), window=3, freq=2), weights, 9)
    train(Adam(0.1), alone, 9)
    assert all((weights[key] == alone[key]).all() for key in KEYS)


def test_memory_of_old_snapshots_is_used_again():
    average = WindowAverage(2)
    weights = {(1, "W"): numpy.ones((3,), dtype="f")}
    average.add_snapshot(weights)
    average.add_snapshot(weights)
    memory = {id(slot[1, "W"]) for slot in average.slots.values()}
    assert len(memory) == 2
    average.add_snapshot(weights)
    assert {id(slot[1, "W"]) for slot in average.slots.values()} == memory


def test_a_late_parameter_counts_in_earlier_snapshots_until_they_are_replaced():
    average = WindowAverage(2)
    first, late = numpy.ones((1,), dtype="f"), numpy.full((1,), 4.0, dtype="f")
    average.add_snapshot({(1, "W"): first})
    average.add_snapshot({(1, "W"): first})
    average.add_parameter((2, "W"), late)
    assert average.averages()[2, "W"] == 4.0
    average.add_snapshot({(1, "W"): first, (2, "W"): numpy.zeros((1,), dtype="f")})
    assert average.averages()[2, "W"] == 2.0
    average.add_snapshot({(1, "W"): first, (2, "W"): numpy.zeros((1,), dtype="f")})
    assert average.averages()[2, "W"] == 0.0


def test_a_snapshot_with_nonfinite_weights_is_left_out():
    average = WindowAverage(2)
    for value in (1.0, 3.0, numpy.nan):
        weights = {(1, "W"): numpy.full((2,), value, dtype="f")}
        if numpy.isnan(value):
            with pytest.warns(RuntimeWarning, match="NaN or infinite"):
                average.add_snapshot(weights)
        else:
            average.add_snapshot(weights)
    assert (average.n_averaged, average.n_skipped) == (2, 1)
    assert (average.averages()[1, "W"] == 2.0).all()


def test_forgotten_parameters_are_dropped_from_all_snapshots():
    from thinc.api import Linear, chain

    model = chain(Linear(2, 2), Linear(2, 2)).initialize()
    optimizer = LAWA(Adam(0.1), window=2, freq=1)
    for _ in range(2):
        for node in model.layers:
            for name in ("W", "b"):
                weights = node.get_param(name)
                optimizer((node.id, name), weights, numpy.ones_like(weights))
        optimizer.step_schedules()
    assert forget_missing(optimizer, model.layers[0]) == 2
    assert set(optimizer.averages) == {(model.layers[0].id, "W"), (model.layers[0].id, "b")}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"window": 0}, "window must be an int >= 1, but was 0"),
        ({"window": 2.0}, "window must be an int >= 1, but was 2.0"),
        ({"freq": True}, "freq must be an int >= 1, but was True"),
        ({"start_step": 0.5}, "total_steps"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LAWA(Adam(0.1), **arguments)

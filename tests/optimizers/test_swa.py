import numpy
import pytest
from helpers import require
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import KEYS, assert_close, assert_equal, due, make_weights, mean, to_numpy, train
from scalar_runs import averaged, scalar_run
from thinc.api import SGD, Adam, Linear

from thinc_swa import EMA, SWA, Lookahead


@pytest.mark.parametrize(
    "start_step, freq, n_averaged, expected",
    [
        (0, 1, 5, 0.7),  # 0.9 0.8 0.7 0.6 0.5
        (0, 2, 2, 0.7),  # 0.8 0.6
        (1, 2, 3, 0.7),  # 0.9 0.7 0.5
        (2, 1, 4, 0.65),  # 0.8 0.7 0.6 0.5
        (3, 2, 2, 0.6),  # 0.7 0.5
        (5, 7, 1, 0.5),
    ],
)
def test_by_hand(start_step, freq, n_averaged, expected):
    optimizer = SWA(SGD(0.1), start_step=start_step, freq=freq)
    scalar_run(optimizer, 5)
    assert optimizer.n_averaged == n_averaged
    assert averaged(optimizer) == expected


def test_before_the_first_snapshot_there_are_no_averages():
    optimizer = SWA(SGD(0.1, use_averages=False), start_step=0, freq=6)
    scalar_run(optimizer, 5)
    assert optimizer.n_averaged == 0 and not optimizer.averages


def test_thincs_own_averages_serve_until_the_start():
    optimizer, plain = SWA(SGD(0.1), start_step=3), SGD(0.1)
    scalar_run(optimizer, 2)
    scalar_run(plain, 2)
    assert_equal(optimizer.averages, plain.averages)
    scalar_run(optimizer, 1)
    assert optimizer.optimizer.averages is None
    assert optimizer.n_averaged == 1


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_is_the_mean_of_the_snapshots(data):
    n_steps = data.draw(st.integers(1, 25), label="n_steps")
    start_step = data.draw(st.none() | st.integers(0, n_steps), label="start_step")
    freq = data.draw(st.integers(1, 5), label="freq")
    end_step = data.draw(
        st.none() | st.integers((start_step or 0) + 1, n_steps + 3), label="end_step"
    )
    is_stepped = data.draw(st.booleans(), label="is_stepped")
    latest = n_steps if end_step is None else min(n_steps, end_step - 1)
    call = data.draw(st.none() | st.integers(0, latest), label="start_swa() after step")
    # The first parameter is in every step, so that it tells where steps end in a loop
    # that does not.
    _, *others = KEYS
    skipped = data.draw(
        st.sets(st.tuples(st.integers(1, n_steps), st.sampled_from(others))), label="skipped"
    )
    if end_step is not None and not is_stepped:
        # There the last step ends when all parameters that are known have been updated.
        skipped = {(step, key) for step, key in skipped if step > 1}

    adam = Adam(0.1, use_averages=False)
    optimizer = SWA(adam, start_step=start_step, freq=freq, end_step=end_step)
    weights = make_weights()
    at_the_end = {}

    def look():
        # In a loop that does not say where a step ends, looking is what ends it.
        assert not optimizer.averages
        at_the_end.update(to_numpy(weights))

    after = {end_step: look, call: optimizer.start_swa}
    if call == 0:
        optimizer.start_swa()

    def is_updated(step, key):
        return (step, key) not in skipped

    train(
        optimizer, weights, n_steps, is_stepped=is_stepped, is_updated=is_updated, after=after
    )
    # Until its end SWA leaves the weights alone.
    bare = Adam(0.1, use_averages=False)
    history = train(bare, make_weights(), n_steps, is_updated=is_updated)

    starts = [step for step in (start_step, call) if step is not None]
    start = min(starts) if starts else None
    last = n_steps if end_step is None else min(n_steps, end_step)
    steps = [] if start is None else due(start, freq, last)
    assert optimizer.n_averaged == len(steps)
    seen = [key for key in KEYS if any((s, key) not in skipped for s in range(1, last + 1))]
    expected = mean([history[step] for step in steps]) if steps else {}
    expected = {key: expected[key] for key in seen if steps}
    if end_step is not None and end_step <= n_steps:
        assert not optimizer.averages
        assert_close(at_the_end, {**history[end_step], **expected})
    elif steps:
        assert_close(optimizer.averages, expected)
    else:
        assert not optimizer.averages


def test_a_parameter_that_is_first_seen_late(xp):
    """It enters with the value that it had then."""
    optimizer = SWA(Adam(0.1), start_step=0)
    weights = make_weights(xp)
    history = train(
        optimizer, weights, 10, is_updated=lambda step, key: key != (3, "b") or step > 6
    )
    assert_close(optimizer.averages, mean(history[1:]))


def test_a_parameter_without_gradients_counts_at_once(xp):
    optimizer = SWA(Adam(0.1), start_step=0)
    weights = make_weights(xp)
    history = train(
        optimizer, weights, 10, is_updated=lambda step, key: key != (3, "b") or step < 4
    )
    assert_close(optimizer.averages, mean(history[1:]))


def test_steps_in_which_nothing_is_updated_count(xp):
    """As with mixed precision, when all gradients overflow."""
    optimizer = SWA(Adam(0.1), start_step=0)
    weights = make_weights(xp)
    history = train(optimizer, weights, 10, is_updated=lambda step, key: step not in (4, 5))
    assert optimizer.n_averaged == 10
    assert_close(optimizer.averages, mean(history[1:]))


def test_without_step_schedules_a_step_is_an_update_of_the_most_often_updated_parameter():
    optimizer = SWA(SGD(0.1), start_step=0)
    weights = {name: numpy.ones((1,), dtype="f") for name in "abc"}
    after_step = {"a": [], "b": [], "c": []}
    #           step 1   2       3  4
    for name in "a b c   b a c   b  b a".replace(" ", ""):
        weights[name], _ = optimizer((1, name), weights[name], numpy.ones((1,), dtype="f"))
    after_step = {
        "a": [0.9, 0.8, 0.8, 0.7],
        "b": [0.9, 0.8, 0.7, 0.6],
        "c": [0.9, 0.8, 0.8, 0.8],
    }
    assert optimizer.n_averaged == 4
    for name, values in after_step.items():
        average = float(optimizer.averages[1, name][0])
        assert average == pytest.approx(numpy.mean(values), abs=1e-6)


def test_a_parameter_that_is_updated_twice_in_a_step_counts_once():
    """Components that share a layer update it one after the other."""
    optimizer = SWA(SGD(0.1), start_step=1)
    weights = scalar_run(optimizer, 1)  # 0.9
    for _ in range(2):
        for _ in range(2):
            weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        optimizer.step_schedules()  # 0.7, 0.5
    assert optimizer.n_averaged == 3
    assert averaged(optimizer) == 0.7


def test_two_updates_in_each_step_by_hand():
    """0.9 0.8 | 0.7 0.6 | 0.5 0.4: three steps, the first like the others."""
    optimizer = SWA(SGD(0.1), start_step=1)
    weights = numpy.ones((1,), dtype="f")
    for _ in range(3):
        for _ in range(2):
            weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        optimizer.step_schedules()
    assert optimizer.n_averaged == 3
    assert averaged(optimizer) == 0.6


def test_start_swa_in_the_first_step():
    """The step counts, and its last update is the first snapshot."""
    optimizer = SWA(SGD(0.1), learn_rate=0.2)
    weights = numpy.ones((1,), dtype="f")
    for update in range(3):
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        if update == 0:
            optimizer.start_swa()
    optimizer.step_schedules()
    assert optimizer.start_step == optimizer.n_averaged == 1
    assert_equal(optimizer.averages, {(1, "W"): weights})


def test_a_schedule_of_its_own_begins_anew_with_the_first_step():
    """The updates of the first step were taken for steps, and used up its first values."""
    for own in ([0.5, 0.4, 0.3, 0.2], iter([0.5, 0.4, 0.3, 0.2])):
        own = own if isinstance(own, list) else (value for value in own)
        optimizer = SWA(SGD(0.1, use_averages=False), start_step=1, learn_rate=own)
        weights, moved = numpy.ones((1,), dtype="f"), []
        for _ in range(4):
            before = float(weights[0])
            for _ in range(4):
                weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
            optimizer.step_schedules()
            moved.append(before - float(weights[0]))
        assert moved[1:] == pytest.approx([4 * 0.5, 4 * 0.4, 4 * 0.3], abs=1e-6)


# start_swa()


@pytest.mark.parametrize("is_stepped", [True, False])
@pytest.mark.parametrize("step", [0, 1, 4])
def test_start_swa_is_start_step(step, is_stepped):
    runs = []
    for start_step in (step, None):
        optimizer = SWA(Adam(0.1), start_step=start_step, freq=3, learn_rate=0.01)
        if start_step is None and step == 0:
            optimizer.start_swa()
        weights = make_weights()
        after = {} if start_step is not None or step == 0 else {step: optimizer.start_swa}
        train(optimizer, weights, 12, is_stepped=is_stepped, after=after)
        runs.append((weights, optimizer.averages, optimizer.n_averaged, optimizer.start_step))
    assert_equal(runs[0][0], runs[1][0])
    assert_equal(runs[0][1], runs[1][1])
    assert runs[0][2:] == runs[1][2:]


@pytest.mark.parametrize("is_stepped", [True, False])
def test_start_swa_takes_the_weights_as_they_stand(is_stepped):
    optimizer = SWA(Adam(0.1))
    weights = make_weights()
    train(optimizer, weights, 3, is_stepped=is_stepped)
    assert optimizer.n_averaged == 0
    optimizer.start_swa()
    assert optimizer.n_averaged == 1
    assert_equal(optimizer.averages, weights)
    optimizer.start_swa()
    assert optimizer.n_averaged == 1


def test_start_swa_between_the_update_and_the_end_of_the_step():
    optimizer = SWA(SGD(0.1), freq=2)
    weights = scalar_run(optimizer, 2)
    weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
    optimizer.start_swa()
    assert optimizer.n_averaged == 1 and averaged(optimizer) == 0.7
    optimizer.step_schedules()
    assert optimizer.n_averaged == 1 and optimizer.start_step == 3
    for _ in range(2):
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        optimizer.step_schedules()
    assert optimizer.n_averaged == 2 and averaged(optimizer) == 0.6


def test_start_swa_comes_before_a_later_start_step():
    optimizer = SWA(SGD(0.1), start_step=4)
    scalar_run(optimizer, 1)
    optimizer.start_swa()
    assert optimizer.start_step == 1 and optimizer.n_averaged == 1


def test_start_swa_after_the_end():
    optimizer = SWA(SGD(0.1), end_step=2)
    scalar_run(optimizer, 2)
    with pytest.raises(ValueError, match="before end_step = 2, but 2 steps are complete"):
        optimizer.start_swa()
    assert optimizer.n_averaged == 0
    optimizer = SWA(SGD(0.1), start_step=1, end_step=2)
    scalar_run(optimizer, 3)
    optimizer.start_swa()  # It has started before.
    assert optimizer.n_averaged == 2


@pytest.mark.parametrize("is_stepped", [True, False])
def test_start_swa_after_the_weights_were_replaced(is_stepped):
    """Model.from_bytes makes new arrays, which the optimizer sees at the next update."""
    model = Linear(1, 1).initialize()
    optimizer = SWA(SGD(0.5, use_averages=False))

    def update(n_steps):
        for _ in range(n_steps):
            for name in model.param_names:
                weights = model.get_param(name)
                weights, _ = optimizer((model.id, name), weights, numpy.ones_like(weights))
                model.set_param(name, weights)
            if is_stepped:
                optimizer.step_schedules()

    update(3)
    saved = Linear(1, 1).initialize()
    for name in saved.param_names:
        saved.get_param(name)[...] = 8.0
    model.from_bytes(saved.to_bytes())
    optimizer.start_swa()
    update(2)  # 8 is the first snapshot, then come 7.5 and 7.
    assert optimizer.n_averaged == 3
    for array in optimizer.averages.values():
        assert (array == 7.5).all()


def test_start_swa_and_then_steps_without_a_gradient():
    """A parameter without a gradient counts with the weights that it has."""
    optimizer, weights = SWA(SGD(0.1)), make_weights()
    train(optimizer, weights, 2)
    optimizer.start_swa()
    still = weights[3, "b"].copy()
    train(optimizer, weights, 4, is_updated=lambda step, key: key != (3, "b"))
    assert_close({0: optimizer.averages[3, "b"]}, {0: still})
    train(optimizer, weights, 1)
    assert optimizer.n_averaged == 6
    expected = (5 * still.astype("float64") + weights[3, "b"]) / 6
    assert_close({0: optimizer.averages[3, "b"]}, {0: expected})


# end_step


@pytest.mark.parametrize("is_stepped", [True, False])
def test_end_step_at_the_very_last_update(is_stepped):
    """The averages are written back before anything else is called."""
    optimizer = SWA(EMA(Adam(0.1), decay=0.5, overwrite_freq=6), start_step=3, end_step=6)
    weights = make_weights()
    bare = EMA(Adam(0.1), decay=0.5)
    history = train(bare, make_weights(), 5)
    train(optimizer, weights, 6, is_stepped=is_stepped)
    now = to_numpy(weights)
    assert not optimizer._average.totals
    sixth = to_numpy(optimizer.averages)  # The inner one's: SWA has ended.
    expected = mean([*history[3:6], sixth])
    assert_close(now, expected)


def test_end_step_by_hand():
    optimizer = SWA(SGD(0.1, use_averages=False), start_step=1, freq=2, end_step=3)
    weights = scalar_run(optimizer, 3)  # 0.9 0.8 0.7: the mean of 0.9 and 0.7
    assert float(weights[0]) == pytest.approx(0.8)
    assert not optimizer.averages
    weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
    assert float(weights[0]) == pytest.approx(0.7)
    assert optimizer.n_averaged == 2


def test_end_step_gives_way_to_the_wrapped_optimizers_averages():
    optimizer = SWA(EMA(SGD(0.1), decay=0.5), start_step=1, end_step=2)
    scalar_run(optimizer, 2)  # 0.9 0.8
    assert averaged(optimizer) == averaged(optimizer.optimizer)


def test_end_step_before_the_first_snapshot_changes_nothing():
    optimizer = SWA(SGD(0.1), start_step=0, freq=5, end_step=3)
    assert float(scalar_run(optimizer, 4)[0]) == pytest.approx(0.6)


def test_lookahead_goes_on_from_the_averaged_weights():
    """Its slow weights would otherwise pull back to where the averages never were."""
    lookahead = Lookahead(SGD(0.1), freq=10)
    optimizer = SWA(lookahead, start_step=1, end_step=3)
    weights = scalar_run(optimizer, 3)
    assert_equal(lookahead.averages, {(1, "W"): weights})


# Fractions


@pytest.mark.parametrize(
    "fraction, total_steps, expected",
    [(0.75, 1000, 750), (0.75, 4, 3), (0.29, 100, 29), (0.7, 10, 7), (0.001, 10, 1)],
)
def test_fractions(fraction, total_steps, expected):
    optimizer = SWA(SGD(0.1), start_step=fraction, total_steps=total_steps)
    assert optimizer.start_step == expected
    optimizer = SWA(SGD(0.1), end_step=fraction, total_steps=total_steps)
    assert optimizer.end_step == expected


# Outside oracles


def test_against_torch(xp):
    require("torch")
    import torch

    optimizer = SWA(Adam(0.1), start_step=4, freq=3)
    weights = make_weights(xp)
    history = train(optimizer, weights, 20)

    module = torch.nn.ParameterList(
        [torch.nn.Parameter(torch.zeros(shape)) for shape in KEYS.values()]
    )
    average = torch.optim.swa_utils.AveragedModel(module)
    for step in due(4, 3, 20):
        for parameter, key in zip(module, KEYS, strict=True):
            parameter.data = torch.from_numpy(history[step][key])
        average.update_parameters(module)
    expected = {key: p.detach().numpy() for key, p in zip(KEYS, average.module, strict=True)}
    assert int(average.n_averaged) == optimizer.n_averaged
    assert_close(optimizer.averages, expected)


def test_averages_read_before_start_swa_are_not_remembered():
    optimizer = SWA(SGD(1.0, use_averages=False))
    weights = numpy.zeros((1,), dtype="f")
    optimizer((1, "W"), weights, numpy.ones_like(weights))
    assert not optimizer.averages
    optimizer.start_swa()
    assert {key: float(a[0]) for key, a in optimizer.averages.items()} == {(1, "W"): -1.0}

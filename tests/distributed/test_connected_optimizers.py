"""LocalSGD on several simulated workers, beside a plain implementation."""

import warnings

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_close
from thinc.api import SGD, Adam, Linear, Softmax, chain
from workers import (
    copies,
    gradient_of,
    make_model,
    places,
    train_on_batches,
    train_on_gradients,
    train_on_share,
)

from thinc_swa import EMA, SWA, LocalSGD, Lookahead, OptimizerWrapper, ParamGroups
from thinc_swa.distributed import SingleWorker, connect, run_simulated
from thinc_swa.models.parameters import named_parameters


class PlainWorkers:
    """N workers with SGD, in float64."""

    def __init__(self, n_workers, weights):
        self.weights = [[array.astype("f8") for array in weights] for _ in range(n_workers)]
        self.theta = [array.astype("f8") for array in weights]
        self.momentum = [numpy.zeros_like(array) for array in self.theta]
        self.updated = [set() for _ in range(n_workers)]

    def update(self, rank, index, gradient):
        self.weights[rank][index] = self.weights[rank][index] - 0.1 * gradient
        self.updated[rank].add(index)

    def average_gradients(self, gradients):
        """gradients: a dict by index for each worker."""
        parts = [found for found in gradients if found]
        for index in range(len(self.theta)):
            found = [g[index] for g in parts if index in g and numpy.isfinite(g[index]).all()]
            n_parts = sum(index not in g or numpy.isfinite(g[index]).all() for g in parts)
            if found:
                self.theta[index] = self.theta[index] - 0.1 * sum(found) / n_parts
        self.spread()

    def synchronise(self, outer_learn_rate, outer_momentum, nesterov):
        for index, theta in enumerate(self.theta):
            changes = [
                theta - weights[index]
                for weights, updated in zip(self.weights, self.updated, strict=True)
                if index in updated and numpy.isfinite(weights[index]).all()
            ]
            delta = sum(changes) / max(1, len(changes)) + numpy.zeros_like(theta)
            m = self.momentum[index] = outer_momentum * self.momentum[index] + delta
            step = delta + outer_momentum * m if nesterov else m
            self.theta[index] = theta - outer_learn_rate * step
        self.spread()

    def spread(self):
        self.weights = [list(self.theta) for _ in self.weights]
        self.updated = [set() for _ in self.weights]


MOMENTS = st.sets(
    st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(0, 3)), max_size=40
)


@settings(deadline=None, max_examples=30)
@given(
    n_workers=st.integers(2, 4),
    freq=st.integers(1, 4),
    outer_learn_rate=st.floats(0.1, 1.2),
    outer_momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
    start_step=st.integers(0, 6),
    missing=MOMENTS,
    non_finite=st.sets(
        st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(0, 3)), max_size=2
    ),
)
def test_is_the_definition(n_workers, freq, start_step, missing, non_finite, **outer):
    n_steps = 12
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Weights that are NaN", category=RuntimeWarning
        )
        found = run_simulated(
            n_workers,
            lambda communicator: train_on_gradients(
                communicator,
                n_steps=n_steps,
                missing=missing,
                non_finite=non_finite,
                freq=freq,
                start_step=start_step,
                **outer,
            ),
        )
    plain = PlainWorkers(n_workers, list(found[0][0].values()))
    for step in range(1, n_steps + 1):
        gradients = [{} for _ in range(n_workers)]
        for rank in range(n_workers):
            for index, theta in enumerate(plain.theta):
                moment = (rank, step, index)
                if moment not in missing:
                    gradients[rank][index] = gradient_of(*moment, theta.shape).astype("f8")
                    if moment in non_finite:
                        gradients[rank][index].flat[0] = numpy.nan
        if step <= start_step:
            plain.average_gradients(gradients)
        else:
            for rank, by_index in enumerate(gradients):
                for index, gradient in by_index.items():
                    plain.update(rank, index, gradient)
            if (step - start_step) % freq == 0:
                plain.synchronise(**outer)
        for history, weights in zip(found, plain.weights, strict=True):
            expected = dict(zip(history[step], weights, strict=True))
            assert_close(history[step], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start_step", [0, 5])
def test_weights_are_the_same_bits_on_all_workers(start_step):
    found = run_simulated(
        4,
        lambda communicator: train_on_gradients(
            communicator, n_steps=11, freq=3, start_step=start_step, outer_momentum=0.9
        ),
    )
    for step in range(12):
        is_synchronised = step <= start_step or (step - start_step) % 3 == 0
        for place in found[0][step]:
            bits = {history[step][place].tobytes() for history in found}
            assert (len(bits) == 1) == is_synchronised, (step, place)
    last = 11 - (11 - start_step) % 3
    for history in found:
        for place, array in history[-1].items():
            assert array.tobytes() == history[last][place].tobytes()


def train_without_dropout(communicator, optimizer, n_steps=20):
    """Each worker on its part of the same batches."""
    numpy.random.seed(0)
    model = chain(Linear(6, 5), Softmax(3, 6)).initialize()
    connect(optimizer, model, communicator)
    random = numpy.random.default_rng(0)
    for _ in range(n_steps):
        X = random.uniform(-1, 1, (12, 5)).astype("f")
        # No classes: where all have the same share, the gradient is a rounding error, which
        # decides the sign of Adam's step.
        Y = random.dirichlet([1, 1, 1], len(X)).astype("f")
        train_on_share(communicator, model, optimizer, X, Y)
    return copies(places(model))


@pytest.mark.parametrize("n_workers", [2, 3])
@pytest.mark.parametrize("make", [Adam, SGD])
def test_start_step_at_the_end_is_one_worker_with_the_joined_batches(n_workers, make):
    expected = train_without_dropout(SingleWorker(), make(0.01))
    found = run_simulated(
        n_workers,
        lambda communicator: train_without_dropout(
            communicator, LocalSGD(make(0.01), freq=50, start_step=20)
        ),
    )
    for weights in found:
        assert_close(weights, expected, rtol=1e-4, atol=1e-6)


def test_start_step_at_the_end_with_averages_and_groups():
    def wrap(communicator):
        groups = [{"name": "biases", "params": ["b"], "lr_scale": 0.5}]
        inner = ParamGroups(Adam(0.01), groups=groups)
        return EMA(LocalSGD(inner, freq=50, start_step=20, total_steps=20), decay=0.5)

    (expected,) = run_simulated(1, lambda c: train_without_dropout(c, wrap(c)))
    for weights in run_simulated(2, lambda c: train_without_dropout(c, wrap(c))):
        assert_close(weights, expected, rtol=1e-4, atol=1e-6)


def test_averages_outside_are_the_same_bits_on_all_workers():
    def work(communicator):
        model = make_model()
        optimizer = SWA(LocalSGD(Adam(0.01), freq=3), start_step=3, freq=3)
        connect(optimizer, model, communicator)
        for step in range(1, 11):
            for index, (key, weights) in enumerate(places(model).values()):
                gradient = gradient_of(communicator.rank, step, index, weights.shape)
                optimizer(key, weights, gradient)
            optimizer.step_schedules()
        assert optimizer.n_averaged == 3
        averages = optimizer.averages
        return [averages[key].tobytes() for _, key, _ in named_parameters(model)]

    first, *others = run_simulated(3, work)
    assert all(other == first for other in others)


def test_a_worker_without_data_follows():
    """It takes part in synchronisations, and its unchanged weights do not count."""

    def work(communicator):
        model = make_model()
        optimizer = LocalSGD(SGD(0.1), freq=2, outer_learn_rate=1.0, outer_momentum=0.0)
        connect(optimizer, model, communicator)
        for step in range(1, 5):
            if communicator.rank == 0:
                for index, (key, weights) in enumerate(places(model).values()):
                    optimizer(key, weights, gradient_of(0, step, index, weights.shape))
            optimizer.step_schedules()
        return copies(places(model))

    alone, follower = run_simulated(2, work)
    (expected,) = run_simulated(1, work)
    for place, array in expected.items():
        assert alone[place].tobytes() == follower[place].tobytes()
        numpy.testing.assert_allclose(alone[place], array, rtol=1e-5, atol=1e-6)


def test_bytes_sent_per_synchronisation():
    """Within 1 % of 2 (N - 1) / N times four bytes per parameter."""
    n_parameters = sum(array.size for _, array in places(make_model(width=256)).values())
    for n_workers in (2, 4):
        sent = []
        for n_steps in (0, 12):
            found = run_simulated(
                n_workers,
                lambda c, n=n_steps: train_on_batches(c, n_steps=n, width=256, freq=3),
            )
            sent.append(int(found[1]["bytes_sent"]))
        expected = 4 * 2 * (n_workers - 1) / n_workers * 4 * n_parameters
        assert expected <= sent[1] - sent[0] <= 1.01 * expected


def test_workers_start_with_the_weights_of_rank_0():
    def work(communicator):
        model = make_model(seed=communicator.rank)
        connect(LocalSGD(Adam(0.1)), model, communicator)
        return copies(places(model))

    first, second = run_simulated(2, work)
    for place, array in copies(places(make_model(seed=0))).items():
        assert first[place].tobytes() == second[place].tobytes() == array.tobytes()


# What cannot be connected


@pytest.mark.parametrize(
    "wrap, message",
    [
        (lambda o: o, "one LocalSGD, but Optimizer has none"),
        (SWA, r"but SWA\(Optimizer\) has none"),
        (lambda o: LocalSGD(LocalSGD(o)), r"LocalSGD\(LocalSGD\(Optimizer\)\) has 2"),
        (lambda o: Lookahead(LocalSGD(o)), "Lookahead cannot wrap LocalSGD"),
        (
            lambda o: ParamGroups(LocalSGD(o), groups=[{"name": "b", "params": ["b"]}]),
            "ParamGroups cannot wrap LocalSGD",
        ),
    ],
)
def test_optimizers_that_cannot_be_connected(wrap, message):
    def work(communicator):
        connect(wrap(Adam(0.1)), make_model(), communicator)

    with pytest.raises(ValueError, match=message):
        run_simulated(2, work)
    # One worker needs nothing.
    run_simulated(1, work)


def test_optimizers_that_can_be_connected():
    def work(communicator):
        optimizer = OptimizerWrapper(SWA(LocalSGD(Lookahead(Adam(0.1)), freq=5), freq=5))
        connect(optimizer, make_model(), communicator)
        return optimizer.optimizer.optimizer.is_connected

    assert run_simulated(2, work) == [True, True]
    assert run_simulated(1, work) == [False]


def test_different_models_are_an_error_on_all_workers():
    messages = []

    def work(communicator):
        try:
            connect(LocalSGD(Adam(0.1)), make_model(4 + communicator.rank), communicator)
        except ValueError as error:
            messages.append(str(error))

    run_simulated(2, work)
    assert len(messages) == 2 and len(set(messages)) == 1
    assert (
        "The models of the workers differ: rank 0 has '1/W (4, 5)', rank 1 has" in messages[0]
    )


def test_frozen_parameters_are_left_out():
    def work(communicator):
        model = make_model()
        groups = [{"name": "frozen", "params": ["b"], "frozen": True}]
        optimizer = LocalSGD(ParamGroups(Adam(0.1), groups=groups))
        connect(optimizer, model, communicator)
        return {name for _, name in optimizer._exchange.keys}

    assert run_simulated(2, work) == [{"W"}, {"W"}]

"""Workers that skip steps in which gradients overflow, each its own, against a loop that is
written out."""

import numpy
import pytest
from helpers import require

require("torch")

from half_precision_training import (  # noqa: E402
    N_STEPS,
    arrays_of,
    copies,
    make_model,
    plain_steps,
    run_step,
    shims_of,
)
from thinc.api import Adam  # noqa: E402

from thinc_swa import LocalSGD  # noqa: E402
from thinc_swa.distributed import connect, run_simulated  # noqa: E402

ORDERS = [range(N_STEPS), [*range(2, N_STEPS), 0, 1]]
F = numpy.float32


def train(communicator, start_step):
    model = make_model()
    optimizer = LocalSGD(
        Adam(0.05, use_averages=False),
        freq=2,
        outer_learn_rate=0.7,
        outer_momentum=0.5,
        start_step=start_step,
    )
    connect(optimizer, model, communicator)
    history = []
    for index in ORDERS[communicator.rank]:
        run_step(model, optimizer, index)
        history.append(copies(arrays_of(shims_of(model)[0]._model)))
    return history, {name: array for (_, name), array in optimizer.averages.items()}


def train_plainly(start_step):
    """RETURNS: The weights of both workers after every step, the synchronised weights, and the
    steps that each of them skipped."""
    optimizers = [Adam(0.05, use_averages=False) for _ in ORDERS]
    slow, moments, changed = {}, {}, [False, False]
    history, skipped = [[], []], [[], []]
    plain = [plain_steps(order=order) for order in ORDERS]
    for steps in zip(*plain, strict=True):
        step, workers, gradients = steps[0][0], [s[1] for s in steps], [s[2] for s in steps]
        for rank in range(2):
            if gradients[rank] is None:
                skipped[rank].append(step)
        if step <= start_step:
            # All workers are updated with the mean of the gradients that there are.
            found = [part for part in gradients if part is not None]
            gradients = [None, None]
            if found:
                mean = {n: sum(part[n] for part in found) / F(len(found)) for n in found[0]}
                gradients = [copies(mean), copies(mean)]
        for rank, (weights, optimizer) in enumerate(zip(workers, optimizers, strict=True)):
            changed[rank] |= gradients[rank] is not None
            for name, gradient in (gradients[rank] or {}).items():
                if step > start_step and name not in slow:
                    slow[name] = weights[name].copy()
                optimizer((0, name), weights[name], gradient)
        if step == start_step:
            slow, changed = copies(workers[0]), [False, False]
        elif step > start_step and (step - start_step) % 2 == 0:
            for name in slow:
                parts = [
                    slow[name] - w[name] for w, c in zip(workers, changed, strict=True) if c
                ]
                change = sum(parts, numpy.zeros_like(slow[name])) / F(max(1, len(parts)))
                moments[name] = F(0.5) * moments.get(name, F(0)) + change
                slow[name] -= F(0.7) * (change + F(0.5) * moments[name])
                for weights in workers:
                    weights[name][...] = slow[name]
            changed = [False, False]
        for rank in range(2):
            history[rank].append(copies(workers[rank]))
    return history, slow, skipped


@pytest.mark.parametrize("start_step", [0, 6, N_STEPS])
def test_workers_that_skip_steps_equal_a_plain_loop(start_step):
    """A worker that has skipped all steps since the last synchronisation is left out of it, and
    one that has skipped a step is left out of the mean of the gradients."""
    expected, slow, skipped = train_plainly(start_step)
    assert skipped[0] != skipped[1] and min(map(len, skipped)) >= 3
    found = run_simulated(2, lambda communicator: train(communicator, start_step))
    for rank, (history, averages) in enumerate(found):
        for weights, plain in zip(history, expected[rank], strict=True):
            for name, array in weights.items():
                assert array.tobytes() == plain[name].tobytes(), name
        for name, array in averages.items():
            assert array.tobytes() == slow[name].tobytes()

"""Averages and training on a GPU, and the absence of host synchronisations."""

import copy
import functools
import json
import pickle

import numpy
import pytest
from helpers import HAS_GPU, as_numpy, require, run_command

if not HAS_GPU:
    pytest.skip("needs a GPU", allow_module_level=True)

import cupy
from thinc.api import (
    SGD,
    Adam,
    CategoricalCrossentropy,
    Relu,
    Softmax,
    chain,
    use_ops,
    with_array,
)
from tiny import ADAM, SWA, SequenceLoss, make_dataset, write_config

import thinc_swa
from thinc_swa.averaging import cupy_kernels
from thinc_swa.averaging.cpu_kernels import pull_back
from thinc_swa.averaging.finite import SkipCount, pull_back_finite
from thinc_swa.averaging.running_average import RunningAverage
from thinc_swa.training.checkpoints import find_checkpoint, load_checkpoint, save_checkpoint
from thinc_swa.training.trainer import Trainer

SHAPES = [(64, 32), (7,), (3, 5, 2), (1,)]


@pytest.fixture(autouse=True)
def on_gpu():
    with use_ops("cupy"):
        yield


def make_weights():
    random = numpy.random.default_rng(0)
    return {
        (i, "W"): cupy.asarray(random.standard_normal(shape, dtype="f"))
        for i, shape in enumerate(SHAPES)
    }


def take_swa(average, slow, weights):
    average.add_snapshot(weights)


def take_ema(average, slow, weights):
    average.add_snapshot(weights, 0.9)


def synchronise(average, slow, weights):
    skipped = SkipCount()
    for key, array in weights.items():
        pull_back_finite(key, slow[key], array, 0.25, skipped)


def synchronise_unchecked(average, slow, weights):
    for key, array in weights.items():
        pull_back(slow[key], array, 0.25)


KERNELS = (
    "add_scaled",
    "interpolate",
    "pull_back",
    "pull_back_finite",
    "_add_in_pieces",
    "_find_non_finite_in_pieces",
)


@pytest.mark.parametrize("n_before", [3, 100])
@pytest.mark.parametrize(
    "update, check_finite, n_launches",
    [
        (take_swa, True, 2),
        (take_swa, False, 1),
        (take_ema, True, 2),
        (take_ema, False, 1),
        (synchronise, True, len(SHAPES)),
        (synchronise_unchecked, False, len(SHAPES)),
    ],
)
def test_updates_need_few_launches_and_no_synchronisation(
    update, check_finite, n_launches, n_before, monkeypatch
):
    weights, slow = make_weights(), make_weights()
    average = RunningAverage(check_finite=check_finite)
    skipped = SkipCount()
    skipped.take_flag()
    monkeypatch.setitem(globals(), "SkipCount", lambda: skipped)
    for _ in range(n_before):  # Compile kernels, collect addresses, allocate memory.
        update(average, slow, weights)
    launched = []
    for name in KERNELS:
        kernel = getattr(cupy_kernels, name)
        counted = functools.partial(count_launch, launched, kernel)
        monkeypatch.setattr(cupy_kernels, name, counted)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        # Synchronisations and copies to the host raise an error during a capture.
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeGlobal)
        update(average, slow, weights)
        graph = stream.end_capture()
        assert len(launched) == n_launches
        graph.launch()
        stream.synchronize()
    assert all(cupy.isfinite(array).all() for array in average.averages().values())


def count_launch(launched, kernel, *arguments):
    launched.append(kernel)
    return kernel(*arguments)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_snapshots_of_all_kinds_of_arrays(decay):
    """The result for small, large, empty, non-contiguous, float16, float64 and host arrays is
    the same as on the CPU."""
    random = numpy.random.default_rng(0)
    shapes = [(3,), (cupy_kernels.PIECE_SIZE,), (5, cupy_kernels.PIECE_SIZE - 1), (0, 4), ()]
    weights = {
        (i, "W"): cupy.asarray(random.standard_normal(shape), dtype="f")
        for i, shape in enumerate(shapes)
    }
    weights[10, "W"] = cupy.asarray(random.standard_normal((6, 8)), dtype="f")[:, ::2]
    weights[11, "W"] = cupy.asarray(random.standard_normal((6, 8)), dtype="f").T
    weights[12, "W"] = cupy.asarray(random.standard_normal(9), dtype="float16")
    weights[13, "W"] = cupy.asarray(random.standard_normal(9), dtype="float64")
    weights[14, "W"] = random.standard_normal(9).astype("f")
    on_gpu, on_cpu = RunningAverage(), RunningAverage()
    for step in range(5):
        for array in weights.values():
            array *= 1.5
        if step == 2:  # Move it to new memory.
            weights[0, "W"] = weights[0, "W"].copy()
        if step == 3:  # A new object with the same memory.
            weights[1, "W"] = weights[1, "W"][:]
        on_gpu.add_snapshot(weights, decay)
        on_cpu.add_snapshot({key: as_numpy(array) for key, array in weights.items()}, decay)
    for key, mean in on_cpu.averages().items():
        numpy.testing.assert_allclose(as_numpy(on_gpu.averages()[key]), mean, rtol=2e-6)
    assert isinstance(on_gpu.averages()[14, "W"], numpy.ndarray)


@pytest.mark.parametrize("n_before", [1, 5, 100])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_non_finite_snapshots_are_left_out_on_a_gpu(decay, n_before):
    """They are counted when the host reads `n_averaged` or `n_skipped`."""
    random = numpy.random.default_rng(0)
    average, expected = RunningAverage(), RunningAverage()

    def snapshot():
        made = {(0, "W"): random.standard_normal((30, 40)).astype("f")}
        made[1, "W"] = random.standard_normal(9).astype("float64")
        made[2, "W"] = random.standard_normal(9).astype("float16")
        return made

    for k in range(n_before + 3):
        weights = snapshot()
        if k == n_before:
            weights[k % 3, "W"].reshape(-1)[5] = numpy.inf
        else:
            expected.add_snapshot(weights, decay)
        average.add_snapshot(
            {key: cupy.asarray(array) for key, array in weights.items()}, decay
        )
    with pytest.warns(RuntimeWarning, match="NaN or infinite"):
        assert (average.n_averaged, average.n_skipped) == (n_before + 2, 1)
    means = {key: as_numpy(array) for key, array in average.averages().items()}
    # In a moving average, snapshots after a gap have a slightly higher weight than on the CPU.
    tolerance = 2e-6 if decay is None else 0.1
    for key, mean in expected.averages().items():
        numpy.testing.assert_allclose(means[key], mean, atol=tolerance)


def test_pullback_leaves_out_non_finite_elements():
    slow, fast = cupy.zeros((4,), dtype="f"), cupy.ones((4,), dtype="f")
    fast[2] = numpy.nan
    skipped = SkipCount()
    pull_back_finite((0, "W"), slow, fast, 0.5, skipped)
    cupy.testing.assert_array_equal(slow, cupy.asarray([0.5, 0.5, 0, 0.5], dtype="f"))
    cupy.testing.assert_array_equal(fast[:2], slow[:2])
    with pytest.warns(RuntimeWarning, match="NaN or infinite"):
        skipped.resolve()
    assert skipped.n_skipped == 1


def test_another_layout_at_the_same_address_is_detected():
    weights = {(0, "W"): cupy.arange(6, dtype="f").reshape(2, 3)}
    average = RunningAverage()
    average.add_snapshot(weights)
    average.add_snapshot(weights)
    turned = {(0, "W"): weights[0, "W"].reshape(3, 2).T}
    average.add_snapshot(turned)
    expected = (2 * as_numpy(weights[0, "W"]) + as_numpy(turned[0, "W"])) / 3
    numpy.testing.assert_allclose(as_numpy(average.averages()[0, "W"]), expected, rtol=1e-6)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_have_their_own_arrays(make_copy):
    weights = make_weights()
    average = RunningAverage()
    average.add_snapshot(weights)
    average.add_snapshot(weights)
    copied, copied_weights = make_copy((average, weights))
    for array in copied_weights.values():
        array *= 3
    copied.add_snapshot(copied_weights)
    for key, array in weights.items():
        cupy.testing.assert_allclose(average.averages()[key], array, rtol=1e-6)
        cupy.testing.assert_allclose(copied.averages()[key], array * 5 / 3, rtol=1e-6)


def test_memory_beside_the_arrays_does_not_change():
    totals, weights = cupy.zeros((20,), dtype="f"), cupy.ones((20,), dtype="f")
    cupy_kernels.AddTogether(
        [totals[:5], totals[7:8], totals[10:15]], [weights[1:6], weights[:1], weights[15:]]
    )(2.0)
    expected = numpy.array([2] * 5 + [0] * 2 + [2] + [0] * 2 + [2] * 5 + [0] * 5)
    cupy.testing.assert_array_equal(totals, expected)


def test_addresses_are_collected_only_once():
    """PyTorch's arrays are new objects in every step."""
    weights = make_weights()
    average = RunningAverage()
    average.add_snapshot(weights)
    average.add_snapshot(weights)
    launch = average._launch
    average.add_snapshot(weights)
    average.add_snapshot({key: array[...] for key, array in weights.items()})
    assert average._launch is launch


@pytest.mark.parametrize("decay", [None, 0.0])
def test_memory_of_old_averages_is_freed(decay):
    weights = {(0, "W"): cupy.ones((100000,), dtype="f")}
    pool = cupy.get_default_memory_pool()
    used = pool.used_bytes()
    average = RunningAverage()
    average.add_snapshot(weights)
    average.add_snapshot(weights)
    average.add_snapshot(weights, decay)
    assert pool.used_bytes() - used < 1.1 * 4 * 100000
    average.clear()
    assert pool.used_bytes() == used


def test_synchronisations_raise_errors_during_a_capture():
    array = cupy.ones((3,), dtype="f")
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeGlobal)
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
            float(array.sum())
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
            stream.end_capture()


def make_training(optimizer, is_list=False, **settings):
    dataset = make_dataset()
    model = chain(Relu(8), Softmax())
    loss = CategoricalCrossentropy()
    if is_list:
        dataset = [[[a[i : i + 4] for i in range(0, 40, 4)] for a in part] for part in dataset]
        model, loss = with_array(model), SequenceLoss()
    settings = {"max_steps": 40, "batch_size": 5, "eval_frequency": 10, **settings}
    return Trainer(model, optimizer, loss, dataset, **settings)


@pytest.mark.parametrize("is_list", [False, True])
def test_training_with_numpy_data_on_the_gpu(is_list):
    training = make_training(thinc_swa.SWA(SGD(0.3), start_step=20, freq=2), is_list)
    training.run()
    assert training.state.evaluations[-1].score > 0.6
    arrays = [node.get_param("W") for node in training.model.walk() if node.has_param("W")]
    arrays += training.optimizer.averages.values()
    assert len(arrays) == 6
    assert all(isinstance(array, cupy.ndarray) for array in arrays)


def test_training_with_the_loss_as_score():
    training = make_training(Adam(0.01), score="loss")
    training.run()
    first, *_, last = training.state.evaluations
    assert last.score > first.score


def test_resume_is_bit_identical_on_the_gpu(tmp_path):
    """The model has no dropout, because the state of CuPy's generator cannot be saved."""

    def make():
        return make_training(thinc_swa.SWA(Adam(0.01), start_step=6, freq=2))

    uninterrupted = make()
    uninterrupted.run()
    stopped = make()
    stopped.max_steps = 20
    stopped.run()
    save_checkpoint(tmp_path, stopped)
    resumed = make()
    load_checkpoint(find_checkpoint(tmp_path), resumed)
    resumed.run()
    assert resumed.state.step == uninterrupted.state.step == 40
    assert resumed.model.to_bytes() == uninterrupted.model.to_bytes()
    for one, other in zip(
        resumed.optimizer.averages.values(),
        uninterrupted.optimizer.averages.values(),
        strict=True,
    ):
        cupy.testing.assert_array_equal(one, other)


def run(folder, *arguments):
    result = run_command(folder, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_commands_on_the_gpu(tmp_path):
    for package in ("typer", "rich", "matplotlib", "scipy"):
        require(package)
    swa = write_config(tmp_path, "swa", optimizer=SWA)
    adam = write_config(tmp_path, "adam", optimizer=ADAM)
    assert "Best: " in run(tmp_path, "train", swa, "--output", "output", "--gpu-id", 0)
    assert "4 parameters" in run(tmp_path, "params", swa, "--gpu-id", 0)
    run(tmp_path, "compare", adam, swa, "--seeds", 2, "--output", "compared", "--gpu-id", 0)
    results = json.loads((tmp_path / "compared" / "results.json").read_text(encoding="utf8"))
    assert len(results["runs"]) == 4
    information = dict(
        line.split(maxsplit=1)
        for line in run(tmp_path, "info").splitlines()
        if len(line.split()) > 1
    )
    assert information["cupy"] == cupy.__version__
    assert information["GPU"].startswith("for CuPy")

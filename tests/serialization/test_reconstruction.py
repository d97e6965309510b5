"""Averages of any width, reconstructed from snapshots, are those that would have been kept."""

import tracemalloc

import numpy
import pytest
from helpers import require
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import make_model, train
from thinc.api import SGD, Adam, Linear, Relu, Softmax, chain

from thinc_swa import (
    EMA,
    SWA,
    Lookahead,
    apply_averages,
    load_optimizer,
    reconstruct_average,
    save_averages,
    save_optimizer,
    use_averages,
)
from thinc_swa.averaging.power_profiles import MAX_SIGMA_REL
from thinc_swa.serialization.average_snapshots import AverageSnapshot, find_snapshots

N_STEPS = 1000
N_WEIGHTS = 60
STORED = (0.05, 0.1)
WIDTHS = (0.04, 0.06, 0.075, 0.09, 0.12, 0.15, 0.2)


def sgd():
    return SGD(1.0, L2=0.0, grad_clip=0.0, use_averages=False)


def nested(widths=STORED, **settings):
    optimizer = sgd()
    for width in widths:
        optimizer = EMA(optimizer, sigma_rel=width, **settings)
    return optimizer


def averages_by_width(optimizer):
    found = {}
    while isinstance(optimizer, EMA):
        found[optimizer.sigma_rel] = optimizer.own_averages
        optimizer = optimizer.optimizer
    return found


def random_walk(n_steps=N_STEPS):
    random = numpy.random.RandomState(0)
    return numpy.cumsum(random.normal(size=(n_steps, N_WEIGHTS)), axis=0)


def drift(n_steps=N_STEPS):
    """Weights that move on straight lines, with noise of a fraction of the distance."""
    random = numpy.random.RandomState(1)
    times = numpy.arange(n_steps)[:, None] / n_steps
    noise = random.normal(size=(n_steps, N_WEIGHTS))
    return 5 + times * random.normal(size=N_WEIGHTS) + 0.05 * noise


def converging(n_steps=N_STEPS):
    """Weights that move fast at first, with noise that has a memory of some steps."""
    random = numpy.random.RandomState(2)
    times = numpy.arange(n_steps)[:, None]
    noise = random.normal(size=(n_steps, N_WEIGHTS))
    for t in range(1, n_steps):
        noise[t] += 0.9 * noise[t - 1]
    return random.normal(size=N_WEIGHTS) * numpy.log1p(times) + 0.1 * noise


TRAJECTORIES = [random_walk, drift]


def follow(optimizer, trajectory, folder=None, freq=50, model=None, **settings):
    """Give a layer the weights of a trajectory, one row per step.

    RETURNS: The model and the key of its weights.
    """
    model = model or Linear(N_WEIGHTS, 1).initialize()
    key = (model.id, "W")
    weights = model.get_param("W")
    for step, row in enumerate(trajectory.astype("f"), start=1):
        optimizer(key, weights, weights - row.reshape(weights.shape))
        optimizer.step_schedules()
        if folder is not None and step % freq == 0:
            save_averages(folder, optimizer, model, **settings)
    return model, key


def distance(one, other):
    assert one.size == other.size
    return numpy.linalg.norm(one.ravel().astype("f8") - other.ravel())


@pytest.mark.parametrize("make", TRAJECTORIES)
def test_reconstructions_are_within_one_percent(tmp_path, make):
    """Of the distance between the average and the raw weights, and of that between the average
    and the nearest one that was kept. The latter is what an average of the wrong width would
    cost, so it is what a reconstruction must be small against."""
    trajectory = make()
    model, key = follow(nested(), trajectory, tmp_path)
    assert len(find_snapshots(tmp_path)) == 2 * N_STEPS // 50
    optimizer = nested((*STORED, *WIDTHS))
    _, kept_key = follow(optimizer, trajectory)
    kept = averages_by_width(optimizer)
    raw = trajectory[-1]
    for width in WIDTHS:
        true = kept[width][kept_key]
        nearest = kept[min(STORED, key=lambda stored: abs(stored - width))][kept_key]
        found = reconstruct_average(tmp_path, model, sigma_rel=width)
        assert set(found) == {key} and found[key].dtype == "float32"
        error = distance(found[key], true)
        assert error < 0.01 * distance(true, raw)
        assert error < 0.01 * distance(true, nearest)


@pytest.mark.parametrize(
    "width, error", [(0.04, 0.03), (0.06, 0.01), (0.12, 0.01), (0.2, 0.01)]
)
def test_reconstructions_of_noise_with_a_memory(tmp_path, width, error):
    """Beside the stored widths the averages hardly differ from the stored ones: the distance
    at 0.04 is a twelfth of that from the raw weights."""
    trajectory = converging()
    model, key = follow(nested(), trajectory, tmp_path)
    optimizer = nested((*STORED, width))
    _, kept_key = follow(optimizer, trajectory)
    kept = averages_by_width(optimizer)
    true = kept[width][kept_key]
    nearest = kept[min(STORED, key=lambda stored: abs(stored - width))][kept_key]
    found = reconstruct_average(tmp_path, model, sigma_rel=width)[key]
    assert distance(found, true) < 0.01 * distance(true, trajectory[-1])
    assert distance(found, true) < error * distance(true, nearest)


@pytest.mark.parametrize("width", STORED)
def test_a_stored_average_is_returned_bit_for_bit(tmp_path, width):
    optimizer = nested()
    model, key = follow(optimizer, random_walk(300), tmp_path)
    found = reconstruct_average(tmp_path, model, sigma_rel=width)
    numpy.testing.assert_array_equal(found[key], averages_by_width(optimizer)[width][key])


def test_any_stored_step_is_an_end(tmp_path):
    trajectory = random_walk()
    model, key = follow(nested(), trajectory, tmp_path)
    optimizer = nested([0.15])
    _, kept_key = follow(optimizer, trajectory[:700])
    found = reconstruct_average(tmp_path, model, sigma_rel=0.15, step=700)
    true = optimizer.averages[kept_key]
    assert distance(found[key], true) < 0.01 * distance(true, trajectory[699])


def test_float16_is_half_the_size(tmp_path):
    trajectory = drift()
    folders = {dtype: tmp_path / dtype for dtype in ("float32", "float16")}
    for dtype, folder in folders.items():
        model, key = follow(nested(), trajectory, folder, dtype=dtype)
    sizes = [
        AverageSnapshot(find_snapshots(folder)[0]).read("0/W").nbytes
        for folder in folders.values()
    ]
    assert sizes == [4 * N_WEIGHTS, 2 * N_WEIGHTS]
    optimizer = nested([0.15])
    _, kept_key = follow(optimizer, trajectory)
    true = optimizer.averages[kept_key]
    found = reconstruct_average(folders["float16"], model, sigma_rel=0.15)[key]
    assert found.dtype == "float32"
    assert 0 < distance(found, true) < 0.01 * distance(true, trajectory[-1])


def test_weights_that_are_too_large_for_float16(tmp_path):
    optimizer = nested()
    follow(optimizer, numpy.full((3, N_WEIGHTS), 1e5))
    with pytest.raises(ValueError, match="100000, which is too large for float16: use float32"):
        follow(nested(), numpy.full((3, N_WEIGHTS), 1e5), tmp_path, freq=1, dtype="float16")


@pytest.mark.parametrize("freq, start_step", [(1, 300), (5, 0), (3, 100)])
def test_freq_and_start_step_count_averages(tmp_path, freq, start_step):
    trajectory = random_walk()
    settings = {"freq": freq, "start_step": start_step}
    model, key = follow(nested(**settings), trajectory, tmp_path)
    first = AverageSnapshot(find_snapshots(tmp_path)[0])
    assert first.step >= start_step
    assert first.profile.n_averaged == (
        (first.step - start_step) // freq + (1 if start_step else 0)
    )
    optimizer = nested([0.15], **settings)
    _, kept_key = follow(optimizer, trajectory)
    true = optimizer.averages[kept_key]
    found = reconstruct_average(tmp_path, model, sigma_rel=0.15)[key]
    assert distance(found, true) < 0.01 * distance(true, trajectory[-1])


def test_before_the_first_average_nothing_is_saved(tmp_path):
    model = Linear(N_WEIGHTS, 1).initialize()
    optimizer = nested(start_step=10)
    assert save_averages(tmp_path / "new", optimizer, model) == []
    follow(optimizer, random_walk(9), model=model)
    assert save_averages(tmp_path / "new", optimizer, model) == []
    assert not (tmp_path / "new").exists()


@settings(deadline=None, max_examples=25)
@given(
    n_steps=st.integers(1, 40),
    sigma_rel=st.floats(0.04, MAX_SIGMA_REL),
    scale=st.floats(0.01, 100),
)
def test_snapshots_of_each_step_give_every_width(tmp_path_factory, n_steps, sigma_rel, scale):
    """They determine the weights of each step."""
    folder = tmp_path_factory.mktemp("averages")
    trajectory = scale * random_walk(n_steps)
    model, key = follow(nested(), trajectory, folder, freq=1)
    optimizer = nested([sigma_rel])
    _, kept_key = follow(optimizer, trajectory)
    found = reconstruct_average(folder, model, sigma_rel=sigma_rel)
    numpy.testing.assert_allclose(
        found[key], optimizer.averages[kept_key], rtol=0, atol=1e-5 * abs(trajectory).max()
    )


def test_one_width_is_enough_beside_it(tmp_path):
    trajectory = random_walk()
    model, key = follow(nested([0.1]), trajectory, tmp_path)
    optimizer = nested([0.12])
    _, kept_key = follow(optimizer, trajectory)
    true = optimizer.averages[kept_key]
    found = reconstruct_average(tmp_path, model, sigma_rel=0.12)[key]
    assert distance(found, true) < 0.01 * distance(true, trajectory[-1])


def test_a_rough_approximation_is_a_warning(tmp_path):
    model, _ = follow(nested(), random_walk(200), tmp_path, freq=50)
    with pytest.warns(UserWarning, match=r"sigma_rel = 0.01 is approximated only roughly"):
        reconstruct_average(tmp_path, model, sigma_rel=0.01)


def test_a_parameter_that_is_first_updated_later(tmp_path):
    random = numpy.random.RandomState(0)
    moves = random.normal(size=(400, 2, 5)).astype("f")

    def run(optimizer, folder=None):
        model = chain(Linear(5, 1), Linear(5, 1))
        layers = [layer.initialize() for layer in model.layers]
        for layer in layers:
            layer.get_param("W")[...] = 1
        for step, rows in enumerate(moves, start=1):
            for layer, move in zip(layers, rows, strict=True):
                if layer is layers[0] or step > 130:
                    optimizer((layer.id, "W"), layer.get_param("W"), move.reshape(5, 1).copy())
            optimizer.step_schedules()
            if folder is not None and step % 20 == 0:
                save_averages(folder, optimizer, model)
        return model, [(layer.id, "W") for layer in layers]

    model, keys = run(nested(), tmp_path)
    first, *_, last = map(AverageSnapshot, find_snapshots(tmp_path))
    assert len(first.names) == 1 and len(last.names) == 2
    found = reconstruct_average(tmp_path, model, sigma_rel=0.08)
    optimizer = nested([0.08])
    other, kept_keys = run(optimizer)
    for key, kept_key, layer in zip(keys, kept_keys, other.layers, strict=True):
        true = optimizer.averages[kept_key]
        error = distance(found[key], true) / distance(true, layer.get_param("W"))
        assert error < 0.01


def make_trained(folder, optimizer=None, n_steps=40, model=None, **settings):
    model = model or make_model()
    optimizer = optimizer or EMA(EMA(Adam(0.01), sigma_rel=0.05), sigma_rel=0.1)
    for _ in range(n_steps // 10):
        train(model, optimizer, 10)
        save_averages(folder, optimizer, model, **settings)
    return model, optimizer


def test_parameters_are_found_by_their_place(tmp_path):
    """Another model of the same shape has other node ids."""
    model, _ = make_trained(tmp_path)
    other = make_model()
    first = reconstruct_average(tmp_path, model, sigma_rel=0.08)
    second = reconstruct_average(tmp_path, other, sigma_rel=0.08)
    assert not set(first) & set(second) and len(first) == len(second) > 5
    for one, two in zip(first.values(), second.values(), strict=True):
        numpy.testing.assert_array_equal(one, two)


def test_reconstructions_are_used_like_averages(tmp_path):
    model, _ = make_trained(tmp_path)
    averages = reconstruct_average(tmp_path, model, sigma_rel=0.12)
    node = model.layers[0]
    while not node.has_param("W"):
        node = node.layers[0]
    own = node.get_param("W").copy()
    expected = averages[node.id, "W"]
    assert not numpy.array_equal(own, expected)
    with model.use_params(averages):
        numpy.testing.assert_array_equal(node.get_param("W"), expected)
    with use_averages(model, averages):
        numpy.testing.assert_array_equal(node.get_param("W"), expected)
    numpy.testing.assert_array_equal(node.get_param("W"), own)
    apply_averages(model, averages)
    numpy.testing.assert_array_equal(node.get_param("W"), expected)
    with pytest.raises(ValueError, match="none of them belongs to this model"):
        apply_averages(make_model(), averages)


def test_pytorch_layers(tmp_path):
    require("torch")
    import torch
    from thinc.api import PyTorchWrapper

    def run(optimizer, folder=None):
        torch.manual_seed(0)
        wrapped = PyTorchWrapper(torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh()))
        first, last = Relu(6, 5), Softmax(3, 4)
        model = chain(first, wrapped, last).initialize()
        random = numpy.random.RandomState(0)
        for layer in (first, last):
            shape = layer.get_param("W").shape
            layer.set_param("W", random.uniform(-1, 1, shape).astype("f"))
        make_trained(folder, optimizer, 200, model) if folder else train(model, optimizer, 200)
        return model, wrapped.shims[0]

    model, shim = run(EMA(EMA(Adam(0.01), sigma_rel=0.05), sigma_rel=0.1), tmp_path)
    optimizer = EMA(Adam(0.01), sigma_rel=0.07)
    _, kept_shim = run(optimizer)
    found = reconstruct_average(tmp_path, model, sigma_rel=0.07)
    true = optimizer.averages[kept_shim.id, "0.weight"]
    raw = shim._model[0].weight.detach().numpy().copy()
    assert distance(found[shim.id, "0.weight"], true) < 0.01 * distance(true, raw)
    with use_averages(model, found):
        inside = shim._model[0].weight.detach().numpy().copy()
    numpy.testing.assert_array_equal(inside, found[shim.id, "0.weight"])
    numpy.testing.assert_array_equal(shim._model[0].weight.detach().numpy(), raw)


def test_spacy_pipelines(tmp_path):
    require("spacy")
    from optimizer_states import make_pipeline
    from training_cases import train_pipeline

    nlp = make_pipeline()
    optimizer = EMA(EMA(Adam(0.01), sigma_rel=0.05), sigma_rel=0.1)
    for step in range(0, 12, 3):
        train_pipeline(nlp, optimizer, step, step + 3)
        save_averages(tmp_path, optimizer, nlp)
    averages = reconstruct_average(tmp_path, make_pipeline(), sigma_rel=0.1)
    found = reconstruct_average(tmp_path, nlp, sigma_rel=0.1)
    assert not set(averages) & set(found) and len(averages) == len(found)
    for key, average in optimizer.averages.items():
        numpy.testing.assert_array_equal(found[key], average)
    tagger = dict(nlp.components)["tagger"].model
    node = next(node for node in tagger.walk() if (node.id, "W") in found)
    with nlp.use_params(found):
        numpy.testing.assert_array_equal(node.get_param("W"), found[node.id, "W"])
    assert not numpy.array_equal(node.get_param("W"), found[node.id, "W"])


def test_snapshots_of_a_resumed_training_are_identical(tmp_path):
    def make():
        return EMA(EMA(Adam(0.01), sigma_rel=0.05), sigma_rel=0.1)

    model = make_model()
    initial = model.to_bytes()
    make_trained(tmp_path / "whole", make(), 30, model, run_id="a")
    model.from_bytes(initial)
    _, optimizer = make_trained(tmp_path / "resumed", make(), 10, model, run_id="a")
    save_optimizer(tmp_path / "state", optimizer, model)
    resumed, loaded = make_model().from_bytes(model.to_bytes()), make()
    load_optimizer(tmp_path / "state", loaded, resumed)
    make_trained(tmp_path / "resumed", loaded, 20, resumed, run_id="a")
    content = [
        {path.name: path.read_bytes() for path in find_snapshots(tmp_path / name)}
        for name in ("whole", "resumed")
    ]
    assert content[0] == content[1] and len(content[0]) == 6


def test_memory_is_that_of_the_averages_and_one_parameter(tmp_path):
    model = chain(*(Linear(500, 500) for _ in range(12))).initialize()
    optimizer = nested()
    for _ in range(10):
        for layer in model.layers:
            weights = layer.get_param("W")
            optimizer((layer.id, "W"), weights, numpy.ones_like(weights))
        optimizer.step_schedules()
        save_averages(tmp_path, optimizer, model)
    size = 4 * 500 * 500
    tracemalloc.start()
    averages = reconstruct_average(tmp_path, model, sigma_rel=0.15)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(averages) == 12
    assert 12 * size < peak < 18 * size


# Errors


def test_a_folder_without_snapshots(tmp_path):
    model = make_model()
    (tmp_path / "step-00000001.safetensors").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match="contains no snapshots of averages: add the call"):
            reconstruct_average(folder, model, sigma_rel=0.1)


def test_the_output_folder_of_a_training(tmp_path):
    model, _ = make_trained(tmp_path / "averages")
    assert reconstruct_average(tmp_path, model, sigma_rel=0.1)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3, float("nan"), True, "0.1"])
def test_widths_out_of_range(tmp_path, sigma_rel):
    model, _ = make_trained(tmp_path)
    with pytest.raises(ValueError, match="sigma_rel must be a number > 0 and <= 0.288675"):
        reconstruct_average(tmp_path, model, sigma_rel=sigma_rel)


@pytest.mark.parametrize(
    "step, message",
    [(25, "no snapshots of step 25: .* the nearest 20 and 30"), (0, "step must")],
)
def test_steps_without_snapshots(tmp_path, step, message):
    model, _ = make_trained(tmp_path)
    with pytest.raises(ValueError, match=message):
        reconstruct_average(tmp_path, model, sigma_rel=0.1, step=step)


def test_another_model(tmp_path):
    make_trained(tmp_path)
    other = chain(Relu(7, 5), Softmax(3, 7)).initialize()
    with pytest.raises(ValueError, match="are of another model: .*has the shape.*more diff"):
        reconstruct_average(tmp_path, other, sigma_rel=0.1)
    with pytest.raises(TypeError, match="Not a Thinc Model"):
        reconstruct_average(tmp_path, "model", sigma_rel=0.1)


def test_snapshots_of_two_trainings(tmp_path):
    model, _ = make_trained(tmp_path, n_steps=10, run_id="a")
    with pytest.raises(FileExistsError, match="exists and is not of this training"):
        make_trained(tmp_path, n_steps=10, run_id="b")
    make_trained(tmp_path / "other", n_steps=20, run_id="b")
    for path in find_snapshots(tmp_path / "other")[2:]:
        path.rename(tmp_path / path.name)
    with pytest.raises(ValueError, match=r"different trainings \(the ids of the trainings d"):
        reconstruct_average(tmp_path, model, sigma_rel=0.1)


def test_snapshots_of_two_models_and_of_other_averages(tmp_path):
    model, _ = make_trained(tmp_path, n_steps=10)
    other = chain(Relu(7, 5), Softmax(3, 7)).initialize()
    make_trained(tmp_path / "a", n_steps=20, model=other)
    make_trained(tmp_path / "b", EMA(Adam(0.01), freq=2), n_steps=20)
    for name, message in (("a", "the shapes of the models"), ("b", "freq or start_step")):
        moved = [
            path.rename(tmp_path / path.name) for path in find_snapshots(tmp_path / name)[-1:]
        ]
        with pytest.raises(ValueError, match=f"belong to different trainings .*{message}"):
            reconstruct_average(tmp_path, model, sigma_rel=0.1)
        moved[0].unlink()


def test_steps_that_do_not_fit(tmp_path):
    model, _ = make_trained(tmp_path, n_steps=20)
    # From a training that had begun later.
    make_trained(tmp_path / "other", EMA(Adam(0.01)), n_steps=30)
    found = find_snapshots(tmp_path / "other")
    found[0].rename(tmp_path / found[0].name.replace("00000010", "00000040"))
    with pytest.raises(ValueError, match="the numbers of averages do not fit the steps"):
        reconstruct_average(tmp_path, model, sigma_rel=0.1)


@pytest.mark.parametrize("damage", ["truncated", "header", "array", "empty"])
def test_damaged_files(tmp_path, damage):
    model, _ = make_trained(tmp_path)
    path = find_snapshots(tmp_path)[-1]
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[-100:]
    elif damage == "empty":
        data.clear()
    else:
        data[400 if damage == "header" else -2] ^= 1
    path.write_bytes(data)
    message = (
        f"{path.name} is damaged.*[^.]\\. Delete this file: the other snapshots may be eno"
    )
    with pytest.raises(ValueError, match=message):
        reconstruct_average(tmp_path, model, sigma_rel=0.08)
    path.unlink()
    assert reconstruct_average(tmp_path, model, sigma_rel=0.05)


def test_a_file_of_another_kind(tmp_path):
    model, optimizer = make_trained(tmp_path)
    save_optimizer(find_snapshots(tmp_path)[0], optimizer, model)
    with pytest.raises(ValueError, match="is not a snapshot of averages: load a file written "):
        reconstruct_average(tmp_path, model, sigma_rel=0.1)
    with pytest.raises(ValueError, match="is not an optimizer state"):
        load_optimizer(find_snapshots(tmp_path)[1], optimizer, model)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Adam(0.01), "keeps no power-function average: wrap it in EMA"),
        (lambda: EMA(Adam(0.01), decay=0.9), "keeps no power-function average"),
        (
            lambda: EMA(EMA(Adam(0.01)), sigma_rel=0.05, freq=2),
            "must have the same freq and st",
        ),
        (
            lambda: EMA(EMA(Adam(0.01)), sigma_rel=0.05, start_step=2),
            "same freq and start_step",
        ),
        (
            lambda: EMA(EMA(Adam(0.01)), sigma_rel=0.1),
            r"different widths, but have \[0.1, 0.1\]",
        ),
        (
            lambda: EMA(Lookahead(EMA(Adam(0.01))), sigma_rel=0.05),
            "Lookahead can change the weights between the power-function averages 0.05 and 0.1",
        ),
        (
            lambda: EMA(EMA(Adam(0.01), overwrite_freq=5), sigma_rel=0.05),
            "EMA can change the weights between",
        ),
    ],
)
def test_optimizers_whose_averages_cannot_be_combined(tmp_path, make, message):
    model, optimizer = make_model(), make()
    train(model, optimizer, 3)
    with pytest.raises(ValueError, match=message):
        save_averages(tmp_path, optimizer, model)
    assert not list(tmp_path.iterdir())


def test_averages_that_began_at_different_steps(tmp_path):
    inner = EMA(Adam(0.01))
    model = make_model()
    train(model, inner, 3)
    optimizer = EMA(inner, sigma_rel=0.05)
    train(model, optimizer, 2)
    with pytest.raises(ValueError, match=r"must have begun at the same step, but .*\[2, 5\]"):
        save_averages(tmp_path, optimizer, model)


def test_wrappers_around_and_within_do_not_matter(tmp_path):
    optimizer = SWA(
        EMA(EMA(Lookahead(Adam(0.01)), sigma_rel=0.05), overwrite_freq=7), start_step=5
    )
    model, _ = make_trained(tmp_path, optimizer)
    assert {path.name for path in find_snapshots(tmp_path)[:2]} == {
        "step-00000010-sigma_rel-0.05.safetensors",
        "step-00000010-sigma_rel-0.1.safetensors",
    }
    found = reconstruct_average(tmp_path, model, sigma_rel=0.1)
    kept = optimizer.optimizer.own_averages
    for key, average in found.items():
        numpy.testing.assert_array_equal(average, kept[key])


def test_a_model_that_the_optimizer_does_not_train(tmp_path):
    _, optimizer = make_trained(tmp_path)
    with pytest.raises(ValueError, match="which is not in the model: pass the model"):
        save_averages(tmp_path, optimizer, make_model())
    with pytest.raises(TypeError, match="Not a Thinc Optimizer"):
        save_averages(tmp_path, "optimizer", make_model())
    with pytest.raises(ValueError, match="dtype must be one of 'float32', 'float16', but was"):
        save_averages(tmp_path, optimizer, make_model(), dtype="float64")

"""Averages, interpolations and soups of saved Thinc models, with PyTorch layers too."""

import sys
import tracemalloc

import numpy
import pytest
from helpers import require
from new_process import run_in_new_process
from thinc.api import Adam, Dropout, Linear, Model, Relu, Softmax, chain, fix_random_seed

from thinc_swa import (
    LAWA,
    SWA,
    average_models,
    greedy_soup,
    interpolate_models,
    use_averages,
)
from thinc_swa.models.saved_models import score_interpolations


def make_model(seed=0, width=4):
    """A model whose weights are drawn again, so that seeds differ in all of them."""
    random = numpy.random.default_rng(seed)
    model = chain(Relu(width, 3), Softmax(3, width)).initialize()
    for node, name in parameters_of(model):
        shape = node.get_param(name).shape
        node.set_param(name, random.normal(size=shape).astype("f"))
    return model


def make_torch_model(seed=0):
    require("torch")
    import torch
    from thinc.api import PyTorchWrapper

    fix_random_seed(seed)
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 4),
        torch.nn.BatchNorm1d(4),
        torch.nn.Linear(4, 4).half(),
        torch.nn.Linear(4, 4, bias=False),
        torch.nn.Linear(4, 4, bias=False).half(),
        torch.nn.Linear(4, 2).double(),
    )
    for tied, first in ((3, 0), (4, 2)):
        module[tied].weight = module[first].weight
    module[1](torch.randn(8, 4))
    for _ in range(seed):
        module[1](torch.randn(8, 4))
    return chain(Linear(4, 3), PyTorchWrapper(module), Softmax(2, 2)).initialize()


def parameters_of(model):
    return [(node, name) for node in model.walk() for name in node.param_names]


def state_of(model):
    """All weights and PyTorch buffers, as NumPy arrays."""
    found = {
        f"{i} {name}": node.get_param(name).copy()
        for i, node in enumerate(model.walk())
        for name in node.param_names
    }
    for i, node in enumerate(model.walk()):
        for shim in node.shims:
            state = shim._model.state_dict()
            found |= {f"{i} {name}": tensor.numpy().copy() for name, tensor in state.items()}
    return found


def save(folder, *models):
    paths = []
    for i, model in enumerate(models):
        paths.append(folder / f"model-{i}")
        model.to_disk(paths[-1])
    return paths


def save_seeds(folder, n_models=3, make=make_model):
    return save(folder, *(make(seed) for seed in range(n_models)))


def load(path, make=make_model):
    return state_of(make(9).from_disk(path))


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        rtol = 1e-3 if array.dtype == "float16" else 1e-6
        numpy.testing.assert_allclose(array, expected[name], rtol, 1e-7, err_msg=name)


def means(states):
    return {
        name: numpy.mean([state[name].astype("f8") for state in states], axis=0).astype(
            states[0][name].dtype
        )
        for name in states[0]
    }


MAKERS = {"thinc": make_model, "pytorch": make_torch_model}


def each_maker():
    return pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def test_the_mean_can_be_traced_by_hand(tmp_path):
    model = Linear(1, 1).initialize()
    for name, weight in (("a", 1.0), ("b", 2.0), ("c", 6.0)):
        model.set_param("W", numpy.array([[weight]], dtype="f"))
        model.to_disk(tmp_path / name)
    average_models([tmp_path / name for name in "abc"], tmp_path / "mean")
    interpolate_models(tmp_path / "b", tmp_path / "c", 0.25, tmp_path / "near")
    assert model.from_disk(tmp_path / "mean").get_param("W").item() == 3.0
    assert model.from_disk(tmp_path / "near").get_param("W").item() == 3.0


@each_maker()
def test_averages_are_those_of_the_arrays(tmp_path, make):
    paths = save_seeds(tmp_path, 5, make)
    average_models(paths, tmp_path / "mean")
    states = [load(path, make) for path in paths]
    expected = means(states)
    for name in expected:
        if states[0][name].dtype.kind != "f":
            # The batches that BatchNorm has counted.
            assert states[0][name] != states[1][name]
            expected[name] = states[0][name]
    assert_close(load(tmp_path / "mean", make), expected)


@each_maker()
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_interpolations_are_those_of_the_arrays(tmp_path, make, alpha):
    paths = save_seeds(tmp_path, 2, make)
    interpolate_models(*paths, alpha, tmp_path / "between")
    base, tuned = (load(path, make) for path in paths)
    expected = {
        name: ((1 - alpha) * base[name].astype("f8") + alpha * tuned[name]).astype(
            base[name].dtype
        )
        if base[name].dtype.kind == "f"
        else base[name]
        for name in base
    }
    found = load(tmp_path / "between", make)
    assert_close(found, expected)
    for name in found if alpha in (0.0, 1.0) else ():
        # At both ends without rounding.
        numpy.testing.assert_array_equal(found[name], expected[name])


@each_maker()
@pytest.mark.parametrize("n_models", [2, 3, 7])
def test_the_average_of_equal_models_is_the_same_file(tmp_path, make, n_models):
    paths = save(tmp_path, *(make(1) for _ in range(n_models)))
    average_models(paths, tmp_path / "mean")
    interpolate_models(*paths[:2], 0.3, tmp_path / "between")
    assert (tmp_path / "mean").read_bytes() == paths[0].read_bytes()
    assert (tmp_path / "between").read_bytes() == paths[0].read_bytes()


def test_tied_weights_stay_tied(tmp_path):
    paths = save_seeds(tmp_path, 2, make_torch_model)
    average_models(paths, tmp_path / "mean")
    # A second copy of the weights would make the file larger.
    assert (tmp_path / "mean").stat().st_size == paths[0].stat().st_size


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(300, 500), (0, 3), ()])
def test_the_mean_of_many_is_exact(tmp_path, dtype, shape):
    """Also in arrays of several blocks, and with weights that are large beside their
    differences."""
    random = numpy.random.default_rng(0)
    model = Model("test", lambda *_: None, params={"W": None})
    arrays = [numpy.asarray(3 + random.normal(size=shape)).astype(dtype) for _ in range(20)]
    paths = []
    for i, array in enumerate(arrays):
        model.set_param("W", array)
        paths += [tmp_path / str(i)]
        model.to_disk(paths[-1])
    average_models(paths, tmp_path / "mean")
    found = model.from_disk(tmp_path / "mean").get_param("W")
    expected = numpy.mean([array.astype("f8") for array in arrays], axis=0)
    assert found.dtype == dtype and found.shape == shape
    rtol = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-12}[dtype]
    numpy.testing.assert_allclose(found, expected, rtol=rtol)


def test_files_with_what_to_bytes_returns(tmp_path):
    for i in range(2):
        (tmp_path / str(i)).write_bytes(make_model(i).to_bytes())
    average_models([str(tmp_path / "0"), str(tmp_path / "1")], str(tmp_path / "mean"))
    expected = means([state_of(make_model(i)) for i in range(2)])
    assert_close(load(tmp_path / "mean"), expected)


def train(optimizer, folder, n_steps=12):
    """Train a model, and save it after every step."""
    random = numpy.random.default_rng(0)
    model = make_model()
    paths = []
    for i in range(n_steps):
        X = random.normal(size=(8, 3)).astype("f")
        guesses, backprop = model.begin_update(X)
        backprop((guesses - numpy.eye(3, dtype="f")[random.integers(3, size=8)]) / 8)
        model.finish_update(optimizer)
        optimizer.step_schedules()
        paths.append(folder / f"step-{i + 1}")
        model.to_disk(paths[-1])
    return model, paths


@pytest.mark.parametrize(
    "make_optimizer, steps",
    [
        (lambda: LAWA(Adam(0.05), window=3, freq=2), (8, 10, 12)),
        (lambda: SWA(Adam(0.05), start_step=4, freq=4), (4, 8, 12)),
    ],
    ids=["LAWA", "SWA"],
)
def test_checkpoints_of_a_training_have_the_average_of_the_optimizer(
    tmp_path, make_optimizer, steps
):
    optimizer = make_optimizer()
    model, paths = train(optimizer, tmp_path)
    average_models([paths[step - 1] for step in steps], tmp_path / "mean")
    with use_averages(model, optimizer):
        expected = state_of(model)
    assert_close(load(tmp_path / "mean"), expected)
    assert not numpy.allclose(expected["1 W"], state_of(model)["1 W"], atol=1e-3)


# Memory


def print_peaks(folder):
    """Peak memory of averages of 2 and of 10 models, in sizes of the models."""
    from pathlib import Path

    paths = sorted(Path(folder).glob("large-*"))
    average_models(paths[:2], Path(folder) / "first")  # Imports.
    for n_models in (2, 10):
        tracemalloc.start()
        average_models(paths[:n_models], Path(folder) / f"mean-{n_models}")
        print(tracemalloc.get_traced_memory()[1] / paths[0].stat().st_size)
        tracemalloc.stop()


@pytest.mark.slow
def test_the_memory_does_not_depend_on_the_number_of_models(tmp_path):
    """The averages and a model, and a little more."""
    layers = chain(*(Linear(400, 400) for _ in range(8))).initialize()
    for i in range(10):
        layers.to_disk(tmp_path / f"large-{i}")
    few, many = map(float, run_in_new_process(print_peaks, tmp_path).split())
    assert 1.5 < few < 2.4
    assert many == pytest.approx(few, rel=0.05)


def print_peak_of_torch(folder, n_models):
    """Growth of the process while it averages, in sizes of the models."""
    import resource
    from pathlib import Path

    paths = sorted(Path(folder).glob("large-*"))[: int(n_models)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    average_models(paths, Path(folder) / "mean", overwrite=True)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(grown / paths[0].stat().st_size)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units")
def test_the_memory_of_pytorch_layers_does_not_depend_on_the_number_of_models(tmp_path):
    require("torch")
    import torch
    from thinc.api import PyTorchWrapper

    layers = [torch.nn.Linear(1600, 1600) for _ in range(8)]
    for i in range(6):
        PyTorchWrapper(torch.nn.Sequential(*layers)).to_disk(tmp_path / f"large-{i}")
    few, many = (float(run_in_new_process(print_peak_of_torch, tmp_path, n)) for n in (2, 6))
    assert few < 3.8 and many < 3.8


# A greedy soup


def test_a_greedy_soup_takes_what_does_not_lower_the_score(tmp_path):
    """The target is 2: the models have the distances 1, 2, 2.5 and 8. The mean of the first two
    is 2.5, that of the first three 1.5, which is as good, and with the fourth 3.625."""
    model, paths = Linear(1, 1).initialize(), []
    for weight in (4.0, 1.0, 10.0, -0.5):
        model.set_param("W", numpy.array([[weight]], dtype="f"))
        paths.append(tmp_path / str(weight))
        model.to_disk(paths[-1])
    seen = []

    def score(path):
        seen.append(model.from_disk(path).get_param("W").item())
        return -abs(seen[-1] - 2)

    soup = greedy_soup(paths, score, tmp_path / "soup")
    assert seen == [4.0, 1.0, 10.0, -0.5, 2.5, 1.5, 3.625]
    assert soup.ingredients == [tmp_path / "1.0", tmp_path / "4.0", tmp_path / "-0.5"]
    assert list(soup.scores.items()) == [
        (tmp_path / "1.0", -1),
        (tmp_path / "4.0", -2),
        (tmp_path / "-0.5", -2.5),
        (tmp_path / "10.0", -8),
    ]
    assert soup.score == -0.5
    average_models(soup.ingredients, tmp_path / "mean")
    assert (tmp_path / "soup").read_bytes() == (tmp_path / "mean").read_bytes()
    assert len(list(tmp_path.iterdir())) == 6


def test_a_soup_of_one(tmp_path):
    paths = save_seeds(tmp_path)
    scores = iter([0.2, 0.9, 0.5, 0.1, 0.1])
    soup = greedy_soup(paths, lambda path: next(scores), tmp_path / "soup")
    assert soup.ingredients == [paths[1]] and soup.score == 0.9
    assert (tmp_path / "soup").read_bytes() == paths[1].read_bytes()


def test_a_score_that_fails_leaves_nothing(tmp_path):
    paths = save_seeds(tmp_path)
    with pytest.raises(ValueError, match="The score of .*model-0 is NaN"):
        greedy_soup(paths, lambda path: float("nan"), tmp_path / "soup")
    assert sorted(tmp_path.iterdir()) == paths


def test_scores_along_the_way(tmp_path):
    paths = save_seeds(tmp_path, 2)
    found = score_interpolations(*paths, [0, 0.5, 1], lambda path: (load(path), path))
    found = {alpha: (state, path) for alpha, (state, path) in found}
    expected = means([load(path) for path in paths])
    assert_close(found[0.5][0], expected)
    assert [found[0][1], found[1][1]] == paths and not found[0.5][1].exists()
    assert sorted(tmp_path.iterdir()) == paths


# Errors


def assert_refused(folder, paths, error, message, **options):
    before = contents(folder)
    with pytest.raises(error, match=message) as found:
        average_models(paths, folder / "mean", **options)
    assert contents(folder) == before
    assert "\n" not in str(found.value)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_differences_are_listed(tmp_path):
    paths = save(tmp_path, make_model(), make_model(1), make_model(2, width=5))
    message = (
        r"The models differ from the first one, .*model-0, so they cannot be averaged\. "
        r".*model-2: layer 1 \(relu\), dimensions"
    )
    assert_refused(tmp_path, paths, ValueError, message)
    with pytest.raises(ValueError) as found:
        average_models(paths, tmp_path / "mean")
    text = str(found.value)
    assert "model-1:" not in text
    assert "weights, W: float32 (4, 3) and float32 (5, 3)" in text
    assert "weights, b: float32 (4,) and float32 (5,)" in text
    assert "dimensions, nO: 4 and 5" in text


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Softmax(3, 3).initialize(), "layers and 1 layers"),
        (lambda: chain(Relu(4, 3), Linear(3, 4)).initialize(), r"softmax\) and .*linear\)"),
        (lambda: chain(Relu(4, 3), Softmax(3)), r"layer \d \(softmax\), .*: 4 and None"),
    ],
)
def test_other_layers(tmp_path, make, message):
    paths = save(tmp_path, chain(Relu(4, 3), Softmax(3, 4)).initialize(), make())
    assert_refused(tmp_path, paths, ValueError, message)


def test_other_dtypes_and_attributes(tmp_path):
    models = [make_model(), make_model(), make_model()]
    models[1].layers[0].set_param("b", numpy.zeros((4,), dtype="f8"))
    softmax = models[2].layers[1]
    softmax.attrs["softmax_temperature"] = 2.0
    paths = save(tmp_path, *models)
    assert_refused(tmp_path, paths, ValueError, r"b: float32 \(4,\) and float64 \(4,\)")
    assert_refused(tmp_path, paths, ValueError, "softmax_temperature: 1.0 and 2.0")


def test_the_dropout_may_differ(tmp_path):
    models = [chain(Linear(2, 2), Dropout(rate)).initialize() for rate in (0.1, 0.3)]
    average_models(save(tmp_path, *models), tmp_path / "mean")
    models[1].from_disk(tmp_path / "mean")
    assert models[1].layers[1].attrs["dropout_rate"] == 0.1


def test_pytorch_layers_that_differ(tmp_path):
    require("torch")
    import torch
    from thinc.api import PyTorchWrapper

    layers = (torch.nn.Linear(3, 3), torch.nn.Linear(3, 4), torch.nn.LayerNorm(3))
    paths = save(tmp_path, *map(PyTorchWrapper, layers))
    assert_refused(tmp_path, paths[:2], ValueError, r"weight: float32 \(3, 3\) and float32 \(4")
    assert_refused(tmp_path, paths[1:], ValueError, "layer 0 ")


def test_layers_of_other_frameworks(tmp_path):
    from thinc.api import Shim

    class OtherShim(Shim):
        def to_bytes(self):
            return b"weights"

    paths = save(tmp_path, *(Model("x", lambda *_: None, shims=[OtherShim(None)]),) * 2)
    message = r"layer 0 \(x\) is a layer of another framework"
    assert_refused(tmp_path, paths, ValueError, message)


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf])
@pytest.mark.parametrize("i", [0, 1])
def test_weights_that_are_not_finite(tmp_path, value, i):
    models = [make_model(0), make_model(1)]
    models[i].layers[0].get_param("W")[1, 2] = value
    message = rf"model-{i} has weights that are NaN or infinite: layer \d \(.*\), W"
    assert_refused(tmp_path, save(tmp_path, *models), ValueError, message)


def test_paths_that_are_no_models(tmp_path):
    paths = save_seeds(tmp_path)
    (tmp_path / "text").write_text("no model")
    (tmp_path / "empty").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(paths[0])
    for name in ("text", "empty"):
        message = rf"{name} is not a file of a Thinc model"
        assert_refused(tmp_path, [paths[0], tmp_path / name], ValueError, message)
    wrong = [
        ([], ValueError, "at least two saved models"),
        (paths[:1], ValueError, "at least two saved models"),
        (str(paths[0]), ValueError, "at least two saved models"),
        ([paths[0], tmp_path / "missing"], FileNotFoundError, "missing"),
        ([paths[0], tmp_path / "folder"], ValueError, "a folder and a file"),
        ([paths[0], paths[1], paths[0]], ValueError, "model-0 and .*model-0 are the same"),
        ([paths[0], tmp_path / "link"], ValueError, "link and .*model-0 are the same model"),
    ]
    for found, error, message in wrong:
        assert_refused(tmp_path, found, error, message)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, True, float("nan"), "0.5"])
def test_bad_alphas(tmp_path, alpha):
    paths = save_seeds(tmp_path, 2)
    with pytest.raises(ValueError, match="alpha must be a number >= 0 and <= 1, but was"):
        interpolate_models(*paths, alpha, tmp_path / "between")
    assert sorted(tmp_path.iterdir()) == paths


def test_damaged_files(tmp_path):
    """Truncated, and with other bytes: an error of ours, or an average."""
    paths = save_seeds(tmp_path, 2)
    data = paths[1].read_bytes()
    random = numpy.random.default_rng(0)
    n_errors = 0
    for i in range(120):
        damaged = bytearray(data)
        if i % 4 == 0:
            damaged = damaged[: random.integers(8, len(data))]
        else:
            damaged[random.integers(6, len(data))] = random.integers(256)
        paths[1].write_bytes(damaged)
        try:
            average_models(paths, tmp_path / "mean", overwrite=True)
        except ValueError as error:
            n_errors += 1
            assert "\n" not in str(error)
    assert n_errors > 35
    assert not list(tmp_path.glob(".*"))


def test_outputs(tmp_path):
    paths = save_seeds(tmp_path)
    average_models(paths[:2], tmp_path / "new" / "folder" / "mean")
    (tmp_path / "mean").write_text("text")
    message = r"mean already exists: overwrite it, or choose another output"
    assert_refused(tmp_path, paths, FileExistsError, message)
    message = "mean is not a saved model, and is not overwritten"
    assert_refused(tmp_path, paths, FileExistsError, message, overwrite=True)
    (tmp_path / "mean").unlink()
    average_models(paths[:2], tmp_path / "mean")
    average_models(paths, tmp_path / "mean", overwrite=True)
    assert_close(load(tmp_path / "mean"), means([load(path) for path in paths]))
    for path in paths[0], tmp_path / "mean" / ".." / "model-1":
        with pytest.raises(ValueError, match="is one of the models: choose another output"):
            average_models(paths, path, overwrite=True)


def fill_disk(folder):
    """Average with files that cannot be larger than half of the model."""
    import resource
    from pathlib import Path

    folder = Path(folder)
    size = (folder / "model-0").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
    try:
        average_models(
            [folder / "model-0", folder / "model-1"], folder / "mean", overwrite=True
        )
    except OSError as error:
        print(type(error).__name__, error.filename)


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_file(tmp_path):
    pytest.importorskip("resource")
    paths = save(tmp_path, make_model(0, 200), make_model(1, 200))
    average_models(paths, tmp_path / "mean")
    before = contents(tmp_path)
    assert run_in_new_process(fill_disk, tmp_path) == f"OSError {tmp_path / 'mean'}\n"
    assert contents(tmp_path) == before

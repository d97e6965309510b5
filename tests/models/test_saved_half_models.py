"""Averages of saved models in half precision are calculated in float32 and rounded once."""

import numpy
import pytest
from helpers import require

require("torch")

import torch  # noqa: E402
from thinc.api import Linear, PyTorchWrapper, chain  # noqa: E402

from thinc_swa import average_models, interpolate_models  # noqa: E402

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def make_model(dtype, seed=0):
    """A layer of PyTorch in half precision, and one of Thinc in float16."""
    torch.manual_seed(seed)
    random = numpy.random.default_rng(seed)
    module = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.BatchNorm1d(30))
    # Large beside their differences, as after a training from the same weights.
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 3
    model = chain(PyTorchWrapper(module.to(DTYPES[dtype])), Linear(3, 40)).initialize()
    for name in ("W", "b"):
        weights = model.layers[1].get_param(name)
        weights = 3 + random.uniform(-1, 1, weights.shape)
        model.layers[1].set_param(name, weights.astype("float16"))
    return model


def state_of(model):
    """The floating-point weights and buffers, as tensors."""
    state = model.layers[0].shims[0]._model.state_dict()
    found = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    for name in ("W", "b"):
        found[name] = torch.from_numpy(model.layers[1].get_param(name))
    return found


def save(folder, models):
    paths = [folder / f"model-{i}" for i in range(len(models))]
    for path, model in zip(paths, models, strict=True):
        model.to_disk(path)
    return paths


def assert_rounded_once(found, exact):
    for name, tensor in found.items():
        assert torch.equal(tensor, exact[name].to(tensor.dtype)), name


@pytest.mark.parametrize("n_models", [3, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_average(tmp_path, dtype, n_models):
    models = [make_model(dtype, seed) for seed in range(n_models)]
    average_models(save(tmp_path, models), tmp_path / "mean")
    states = [state_of(model) for model in models]
    exact = {
        name: sum(state[name].double() for state in states) / n_models for name in states[0]
    }
    found = state_of(make_model(dtype, 9).from_disk(tmp_path / "mean"))
    assert_rounded_once(found, exact)
    # Arithmetic in the type of the weights would give something else.
    rounded = sum(state["0.weight"] / n_models for state in states)
    assert rounded.dtype == found["0.weight"].dtype
    assert not torch.equal(found["0.weight"], rounded)


@pytest.mark.parametrize("dtype", DTYPES)
def test_interpolation(tmp_path, dtype):
    models = [make_model(dtype, seed) for seed in range(2)]
    paths = save(tmp_path, models)
    states = [state_of(model) for model in models]
    for alpha in (0.0, 0.25, 1.0):
        interpolate_models(*paths, alpha, tmp_path / "mean", overwrite=True)
        exact = {
            name: (1 - alpha) * tensor.double() + alpha * states[1][name].double()
            for name, tensor in states[0].items()
        }
        found = state_of(make_model(dtype, 9).from_disk(tmp_path / "mean"))
        assert_rounded_once(found, exact)

"""Gradient scalers of PyTorch layers are a part of the saved state."""

import json

import numpy
import pytest
from helpers import require

require("torch")

from half_precision_training import (  # noqa: E402
    N_STEPS,
    Scaler,
    arrays_of,
    copies,
    make_model,
    make_scaler,
    run_step,
    shims_of,
)
from state_files import forge, read_file  # noqa: E402
from thinc.api import Adam, PyTorchGradScaler, PyTorchWrapper_v2, Softmax, chain  # noqa: E402
from wrapped_optimizers import OPTIMIZERS  # noqa: E402

from thinc_swa import SWA, load_optimizer, save_optimizer  # noqa: E402


def make_trained(n_steps, name="SWA"):
    model, optimizer = make_model(), OPTIMIZERS[name](Adam(0.05))
    for index in range(n_steps):
        run_step(model, optimizer, index)
    return model, optimizer


def scaler_of(model):
    (shim,) = shims_of(model)
    scaler = shim._grad_scaler
    return float(scaler._scale), int(scaler._growth_tracker), scaler.found_inf


@pytest.mark.filterwarnings("ignore:No parameter was selected by group 'biases'")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("n_before", [0, 1, 5, 10])
def test_resuming_is_bit_identical(tmp_path, name, n_before):
    """Steps are skipped at the same places as without the interruption."""
    path = tmp_path / "optimizer"
    whole, optimizer = make_trained(n_before, name)
    save_optimizer(path, optimizer, whole)
    saved = scaler_of(whole)
    resumed, resumed_optimizer = make_trained(0, name)
    resumed.from_bytes(whole.to_bytes())
    load_optimizer(path, resumed_optimizer, resumed)
    assert scaler_of(resumed) == saved
    if n_before:
        assert saved != scaler_of(make_model())
    for index in range(n_before, N_STEPS):
        run_step(whole, optimizer, index)
        run_step(resumed, resumed_optimizer, index)
    assert scaler_of(resumed) == scaler_of(whole)
    weights, expected = (copies(arrays_of(shims_of(m)[0]._model)) for m in (resumed, whole))
    for parameter, array in weights.items():
        assert array.tobytes() == expected[parameter].tobytes()
    averages, expected = (
        {parameter: array for (_, parameter), array in found.averages.items()}
        for found in (resumed_optimizer, optimizer)
    )
    assert averages.keys() == expected.keys()
    for parameter, array in averages.items():
        assert array.tobytes() == expected[parameter].tobytes()


def test_a_scaler_that_starts_again_would_skip_other_steps(tmp_path):
    """The reason for saving it."""
    model, optimizer = make_trained(5)
    other = make_model().from_bytes(model.to_bytes())
    assert scaler_of(other) == scaler_of(make_model()) != scaler_of(model)


def make_two_layers(first=None, second=None):
    layers = [
        PyTorchWrapper_v2(make_model().shims[0]._model, grad_scaler=scaler)
        for scaler in (first, second)
    ]
    return chain(layers[0], Softmax(5, 3), layers[1]).initialize()


def test_each_layer_has_its_own_scaler(tmp_path):
    def scales(model):
        return [
            (shim._grad_scaler._scale.item(), shim._grad_scaler._growth_tracker.item())
            for shim in shims_of(model)
        ]

    models = [make_two_layers(make_scaler(), make_scaler()) for _ in range(2)]
    shims_of(models[0])[1]._grad_scaler._scale.fill_(3.0)
    shims_of(models[0])[1]._grad_scaler._growth_tracker.fill_(2)
    save_optimizer(tmp_path / "optimizer", SWA(Adam()), models[0])
    load_optimizer(tmp_path / "optimizer", SWA(Adam()), models[1])
    assert scales(models[1]) == scales(models[0]) == [(2.0**125, 0), (3.0, 2)]


def test_scalers_that_do_not_fit_are_an_error(tmp_path):
    """With both layers in the list, and nothing has changed."""
    models = make_two_layers(make_scaler(), None), make_two_layers(None, make_scaler())
    shims_of(models[0])[0]._grad_scaler._scale.fill_(3.0)
    save_optimizer(tmp_path / "optimizer", SWA(Adam()), models[0])
    with pytest.raises(ValueError) as caught:
        load_optimizer(tmp_path / "optimizer", SWA(Adam()), models[1])
    assert str(caught.value) == (
        f"{tmp_path / 'optimizer'} does not fit this optimizer and this model:\n"
        "- the PyTorch layer 1/0 had a gradient scaler, and has none that is enabled\n"
        "- it has no state of the gradient scaler of the PyTorch layer 3/0"
    )
    assert shims_of(models[1])[1]._grad_scaler._scale.item() == 2.0**125


def test_models_without_mixed_precision_have_no_scalers(tmp_path):
    model = make_two_layers(None, PyTorchGradScaler(enabled=False))
    save_optimizer(tmp_path / "optimizer", SWA(Adam()), model)
    _, header = read_file((tmp_path / "optimizer").read_bytes())
    assert "grad_scalers" not in header
    load_optimizer(tmp_path / "optimizer", SWA(Adam()), model)


@pytest.mark.parametrize(
    "value",
    [
        3,
        None,
        [],
        {"0/0": 3},
        {"0/0": {}},
        {"0/0": {"scale": 1.0}},
        {"0/0": {"scale": "1", "growth_tracker": 1}},
        {"0/0": {"scale": 1.0, "growth_tracker": 1.5}},
        {"0/0": {"scale": 1.0, "growth_tracker": True}},
    ],
)
def test_damaged_scalers_are_an_error(tmp_path, value):
    path = tmp_path / "optimizer"
    model, optimizer = make_trained(2)
    save_optimizer(path, optimizer, model)
    content = path.read_bytes()
    path.write_bytes(forge(content, state=lambda state: state.update(grad_scalers=value)))
    before = scaler_of(model)
    with pytest.raises(ValueError, match="is damaged: its header does not describe a state"):
        load_optimizer(path, SWA(Adam(0.05), start_step=0, freq=2), model)
    assert scaler_of(model) == before


def test_scales_are_saved_exactly(tmp_path):
    """Also those that are not a power of two."""
    scaler = Scaler(enabled=True, init_scale=1.0)
    scaler._scale.fill_(numpy.float32(1) / 3)
    model = make_model(scaler=scaler)
    save_optimizer(tmp_path / "optimizer", SWA(Adam()), model)
    _, header = read_file((tmp_path / "optimizer").read_bytes())
    (state,) = json.loads(json.dumps(header["grad_scalers"])).values()
    assert state == {"scale": float(numpy.float32(1) / 3), "growth_tracker": 0}
    other = make_model()
    load_optimizer(tmp_path / "optimizer", SWA(Adam()), other)
    assert shims_of(other)[0]._grad_scaler._scale.item() == state["scale"]

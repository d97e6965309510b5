"""Averages of PyTorch layers in Thinc models."""

import copy
import subprocess
import sys

import numpy
import pytest
from helpers import require

require("torch")

import torch  # noqa: E402
from reference import assert_close, assert_equal, due, mean, to_numpy  # noqa: E402
from thinc.api import SGD, Adam, PyTorchShim, PyTorchWrapper, Softmax, chain  # noqa: E402
from thinc.compat import has_torch_cuda_gpu  # noqa: E402
from torch_training import N_STEPS, X, Y, make_module, step, weights_of  # noqa: E402

from thinc_swa import (  # noqa: E402
    EMA,
    SWA,
    Lookahead,
    OptimizerWrapper,
    apply_averages,
    update_batch_norm,
    use_averages,
)

WRAPPERS = {
    "Adam": lambda: OptimizerWrapper(Adam(0.1)),
    "SWA": lambda: SWA(Adam(0.1), start_step=2, freq=2),
    "EMA": lambda: EMA(Adam(0.1), decay=0.8),
    "Lookahead": lambda: Lookahead(Adam(0.1), freq=2, pullback=0.3),
    "Lookahead, then SWA": lambda: SWA(Lookahead(Adam(0.1), freq=2), start_step=2, freq=2),
}


def expected_averages(name, history):
    """The averages in float64 from the initial weights and those after every step."""
    history = [{n: a.astype("float64") for n, a in weights.items()} for weights in history]
    if name in ("SWA", "Lookahead, then SWA"):
        return mean([history[step] for step in due(2, 2, N_STEPS)])
    if name == "Lookahead":
        return history[6]  # After the last synchronisation fast and slow weights are equal.
    average = history[1] if name == "EMA" else {n: a * 0 for n, a in history[0].items()}
    for t in range(2 if name == "EMA" else 1, N_STEPS + 1):
        decay = 0.8 if name == "EMA" else (1 + t) / (10 + t)
        average = {n: decay * a + (1 - decay) * history[t][n] for n, a in average.items()}
    return average


@pytest.fixture(params=WRAPPERS)
def trained(request):
    """A module, its Thinc model, the optimizer, and the expected averages."""
    module = make_module()
    model = PyTorchWrapper(module)
    optimizer = WRAPPERS[request.param]()
    history = [weights_of(module)]
    for _ in range(N_STEPS):
        step(model, optimizer)
        history.append(weights_of(module))
    return module, model, optimizer, expected_averages(request.param, history)


def predictions(weights):
    module = make_module()
    module.load_state_dict({name: torch.from_numpy(a).float() for name, a in weights.items()})
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


def state_of(module):
    return [
        (p, p.data_ptr(), p.requires_grad, p.grad, copy.deepcopy(p.data), copy.deepcopy(p.grad))
        for p in module.parameters()
    ]


def assert_same_state(module, state):
    for p, (same, pointer, requires_grad, grad, data, grad_data) in zip(
        module.parameters(), state, strict=True
    ):
        assert p is same and p.data_ptr() == pointer and p.requires_grad == requires_grad
        assert p.grad is grad
        assert torch.equal(p.data, data)
        assert grad is None or torch.equal(grad, grad_data)


def test_predictions_with_averages(trained):
    module, model, optimizer, expected = trained
    names = {name for _, name in optimizer.averages}
    assert_close({name: array for (_, name), array in optimizer.averages.items()}, expected)
    assert names == set(expected)
    expected = predictions(expected)
    raw = model.predict(X)
    state = state_of(module)
    assert abs(raw - expected).max() > 1e-3
    with use_averages(model, optimizer):
        numpy.testing.assert_allclose(model.predict(X), expected, atol=1e-5)
    assert_same_state(module, state)
    with model.use_params(optimizer.averages):
        numpy.testing.assert_allclose(model.predict(X), expected, atol=1e-5)
    assert_same_state(module, state)
    numpy.testing.assert_array_equal(model.predict(X), raw)
    for context in (use_averages(model, optimizer), model.use_params(optimizer.averages)):
        with pytest.raises(RuntimeError, match="no"), context:
            raise RuntimeError("no")
        assert_same_state(module, state)
    step(model, optimizer)
    apply_averages(model, optimizer)
    averages = {name: array for (_, name), array in optimizer.averages.items()}
    numpy.testing.assert_allclose(model.predict(X), predictions(averages), atol=1e-5)
    step(model, optimizer)


def test_gradients_and_requires_grad_are_unchanged(trained):
    module, model, optimizer, _ = trained
    module[0].bias.requires_grad_(False)
    predicted, backprop = model.begin_update(X)
    backprop(predicted - Y)
    state = state_of(module)
    assert state[0][3] is not None
    for context in (use_averages(model, optimizer), model.use_params(optimizer.averages)):
        with context:
            assert not module[0].bias.requires_grad and module[0].weight.requires_grad
        assert_same_state(module, state)


def test_use_params_makes_no_copies(trained):
    module, model, optimizer, _ = trained
    averages = optimizer.averages
    shim = model.shims[0]
    with model.use_params(averages):
        for name, parameter in module.named_parameters():
            address = averages[shim.id, name].__array_interface__["data"][0]
            assert parameter.data_ptr() == address


def test_changes_of_modules_inside_use_averages_do_not_affect_averages(trained):
    module, model, optimizer, _ = trained
    averages = optimizer.averages
    kept = to_numpy(averages)
    before = weights_of(module)
    with use_averages(model, optimizer):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 100
        step(model, SGD(0.5))
    assert_equal(averages, kept)
    assert_equal(optimizer.averages, kept)
    assert_equal(weights_of(module), before)


def test_shim_without_a_model_is_ignored():
    """Thinc allows it for layers that are loaded later."""
    model = chain(PyTorchWrapper(make_module()), Softmax(3)).initialize(X, Y)
    optimizer = SWA(Adam(0.1), start_step=0)
    step(model, optimizer)
    for node in model.walk():
        for shim in node.shims:
            shim._model = None
    with model.use_params(optimizer.averages), use_averages(model, optimizer):
        pass
    apply_averages(model, optimizer)
    update_batch_norm(model, [])


def test_averages_of_thinc_and_pytorch_layers_in_one_model():
    module = make_module()
    model = chain(PyTorchWrapper(module), Softmax(3)).initialize(X, Y)
    optimizer = SWA(Adam(0.1), start_step=0)
    thinc_history, history = [], []
    for _ in range(N_STEPS):
        step(model, optimizer)
        history.append(weights_of(module))
        thinc_history.append(to_numpy({name: model.layers[1].get_param(name) for name in "Wb"}))
    with use_averages(model, optimizer):
        assert_close(weights_of(module), mean(history))
        softmax = model.layers[1]
        assert_close({name: softmax.get_param(name) for name in "Wb"}, mean(thinc_history))


def test_subclasses_of_the_shim_use_averages():
    class Special(PyTorchShim):
        pass

    class Overriding(PyTorchShim):
        def use_params(self, params):
            return super().use_params(params)

    for cls in (Special, Overriding):
        module = make_module()
        model = PyTorchWrapper(module)
        model.shims[0] = shim = cls(module)
        shim_id = shim.id
        optimizer = SWA(Adam(0.1), start_step=0)
        for _ in range(3):
            step(model, optimizer)
        before = weights_of(module)
        with model.use_params(optimizer.averages):
            weight = module[0].weight.detach().numpy()
            numpy.testing.assert_array_equal(weight, optimizer.averages[shim_id, "0.weight"])
        assert_close(weights_of(module), before, rtol=0, atol=0)


def test_string_keys_of_thinc_are_supported():
    OptimizerWrapper(Adam())
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model = PyTorchWrapper(module)
    shim_id = model.shims[0].id
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    params = {
        f"pytorch_{shim_id}_{name}": (tensor * 0 + 3).numpy() for name, tensor in before.items()
    }
    with pytest.raises(RuntimeError, match="no"), model.use_params(params):
        for tensor in module.state_dict().values():
            assert (tensor == 3).all()
        raise RuntimeError("no")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype


def test_tied_parameters_stay_tied():
    module = torch.nn.Sequential(
        torch.nn.Linear(5, 5), torch.nn.Linear(5, 5), torch.nn.Linear(5, 3)
    )
    module[1].weight = module[0].weight
    model = PyTorchWrapper(module)
    optimizer = SWA(Adam(0.1), start_step=0)
    for _ in range(3):
        step(model, optimizer)
    with use_averages(model, optimizer):
        assert module[1].weight is module[0].weight
    with model.use_params(optimizer.averages):
        assert module[1].weight is module[0].weight


def test_half_precision_modules_keep_their_dtype():
    module = make_module()
    model = PyTorchWrapper(module)
    optimizer = SWA(Adam(0.1), start_step=0)
    for _ in range(3):
        step(model, optimizer)
    module.half()
    for context in (use_averages(model, optimizer), model.use_params(optimizer.averages)):
        with context:
            assert {p.dtype for p in module.parameters()} == {torch.float16}


def test_average_of_another_shape_is_refused():
    module = make_module()
    model = PyTorchWrapper(module)
    optimizer = SWA(Adam(0.1), start_step=0)
    step(model, optimizer)
    module[2].bias.data = torch.zeros(4)
    module[2].bias.grad = None
    state = state_of(module)
    for make in (
        lambda: use_averages(model, optimizer),
        lambda: model.use_params(optimizer.averages),
    ):
        with pytest.raises(ValueError, match=r"2\.bias'\) has the shape \(4,\).*\(3,\)"):
            with make():
                pass
        assert_same_state(module, state)


CHECK_WITHOUT_FIX = """
from thinc_swa.models.pytorch_shim import _shim_uses_averages, fix_pytorch_shim
assert not _shim_uses_averages(), "Thinc uses the averages of PyTorch layers by itself now"
from thinc.api import Adam
from thinc_swa import OptimizerWrapper
OptimizerWrapper(Adam())
assert _shim_uses_averages()
"""


def test_thinc_still_ignores_averages_of_pytorch_layers():
    """If this fails, Thinc uses the averages, and `fix_pytorch_shim` can be removed."""
    subprocess.run([sys.executable, "-W", "error", "-c", CHECK_WITHOUT_FIX], check=True)


def test_shim_check_uses_no_random_numbers():
    program = (
        "import torch, thinc_swa; from thinc.api import Adam; torch.manual_seed(0)\n"
        "thinc_swa.SWA(Adam()); print(float(torch.rand(1)))"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    torch.manual_seed(0)
    assert float(run.stdout) == float(torch.rand(1))


@pytest.mark.skipif(not has_torch_cuda_gpu, reason="needs a GPU")
def test_use_averages_makes_no_host_copies_on_a_gpu():
    import cupy
    from thinc.api import CupyOps, use_ops

    with use_ops("cupy"):
        module = make_module().cuda()
        model = PyTorchWrapper(module)
        optimizer = SWA(Adam(0.1), start_step=0)
        for _ in range(3):
            predicted, backprop = model.begin_update(CupyOps().asarray(X))
            backprop((predicted - CupyOps().asarray(Y)) / len(Y))
            model.finish_update(optimizer)
            optimizer.step_schedules()
        averages = optimizer.averages
        for context in (use_averages(model, optimizer), model.use_params(averages)):
            with context:
                for name, parameter in module.named_parameters():
                    average = averages[model.shims[0].id, name]
                    assert isinstance(average, cupy.ndarray)
                    assert parameter.is_cuda and parameter.data_ptr() == average.data.ptr

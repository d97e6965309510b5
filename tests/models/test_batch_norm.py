"""Re-estimation of BatchNorm statistics of PyTorch layers in Thinc models."""

import sys

import numpy
import pytest
from helpers import require

require("torch")

import torch  # noqa: E402
from reference import assert_close  # noqa: E402
from thinc.api import SGD, Adam, PyTorchWrapper  # noqa: E402
from torch_training import N_STEPS, X, step, weights_of  # noqa: E402

from thinc_swa import SWA, apply_averages, update_batch_norm, use_averages  # noqa: E402


def make_batch_norm_module():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 6),
        torch.nn.BatchNorm1d(6, momentum=0.3),
        torch.nn.ReLU(),
        torch.nn.Linear(6, 4),
        torch.nn.BatchNorm1d(4, momentum=None),
        torch.nn.BatchNorm1d(4, track_running_stats=False),
        torch.nn.Linear(4, 3),
        torch.nn.Softmax(-1),
    )


BATCHES = [X[:5] * 3, X[5:8] + 1, X[8:]]


def test_update_batch_norm_equals_pytorch():
    module = make_batch_norm_module()
    model = PyTorchWrapper(module)
    optimizer = SWA(Adam(0.1), start_step=0)
    for _ in range(N_STEPS):
        step(model, optimizer)
    parameters = weights_of(module)
    oracle = make_batch_norm_module()
    averages = {
        name: torch.from_numpy(array) for (_, name), array in optimizer.averages.items()
    }
    oracle.load_state_dict({**oracle.state_dict(), **averages})
    torch.optim.swa_utils.update_bn([torch.from_numpy(batch) for batch in BATCHES], oracle)

    module[4].eval()
    with use_averages(model, optimizer):
        update_batch_norm(model, iter(BATCHES))
    for name, tensor in oracle.named_buffers():
        numpy.testing.assert_allclose(dict(module.named_buffers())[name], tensor, rtol=1e-5)
    assert_close(weights_of(module), parameters, rtol=0, atol=0)
    assert (module[1].momentum, module[4].momentum) == (0.3, None)
    assert module[1].training and not module[4].training
    assert not module[1]._forward_pre_hooks

    apply_averages(model, optimizer)
    with torch.no_grad():
        expected = oracle.eval()(torch.from_numpy(X)).numpy()
    numpy.testing.assert_allclose(model.predict(X), expected, atol=1e-5)


def test_update_batch_norm_disables_dropout():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(5))
    update_batch_norm(PyTorchWrapper(module), [X])
    numpy.testing.assert_allclose(module[1].running_mean, X.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "There are no batches"),
        ([X, X[:, :3]], r"failed on batch 2 \(ndarray\)"),
        (["text"], r"failed on batch 1 \(str\)"),
    ],
)
def test_update_batch_norm_restores_statistics_after_an_error(batches, message):
    module = make_batch_norm_module()
    model = PyTorchWrapper(module)
    step(model, SGD(0.1))
    module[4].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        update_batch_norm(model, batches)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert (module[1].momentum, module[4].momentum) == (0.3, None)
    assert module[1].training and not module[4].training
    assert not module[1]._forward_pre_hooks


def test_update_batch_norm_with_a_progress_bar(capsys, monkeypatch):
    require("rich")
    model = PyTorchWrapper(make_batch_norm_module())
    update_batch_norm(model, BATCHES, progress=True)
    assert "BatchNorm" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    update_batch_norm(model, BATCHES, progress=True)
    assert capsys.readouterr().err == ""

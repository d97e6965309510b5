"""Loading of PyTorch layers from untrusted files."""

import io
import pathlib
import pickle
from types import SimpleNamespace

import pytest
from helpers import require
from thinc.api import Relu, Softmax, chain

from thinc_swa.models import pytorch_loading
from thinc_swa.models.pytorch_loading import UNSAFE_VARIABLE, check_pytorch_loading


@pytest.fixture
def model():
    require("torch")
    import torch
    from thinc.api import PyTorchWrapper

    return chain(Relu(3, 2), PyTorchWrapper(torch.nn.Linear(3, 3)))


def set_version(monkeypatch, version):
    monkeypatch.setattr(pytorch_loading, "torch", SimpleNamespace(__version__=version))


UNSAFE = ("1.13.1", "2.5.1+cu121", "2.5", "unknown")


@pytest.mark.parametrize("version", UNSAFE)
def test_unsafe_pytorch_versions_are_refused(monkeypatch, model, version):
    set_version(monkeypatch, version)
    with pytest.raises(
        ValueError, match=rf"is {version.replace('+', '.')}, install PyTorch >= 2.6"
    ):
        check_pytorch_loading(model)


@pytest.mark.parametrize("version", UNSAFE)
def test_trusted_files_and_models_without_pytorch_pass(monkeypatch, model, version):
    set_version(monkeypatch, version)
    check_pytorch_loading(model, trust=True)
    check_pytorch_loading(chain(Relu(3, 2), Softmax(3, 3)))


@pytest.mark.parametrize("version", ("2.6.0", "2.10.1+cpu", "2.13.0a0+git1", "10.0"))
def test_safe_pytorch_versions_pass(monkeypatch, model, version):
    set_version(monkeypatch, version)
    check_pytorch_loading(model)


def test_environment_variable_for_unsafe_loading_is_refused(monkeypatch, model):
    set_version(monkeypatch, "2.13.0")
    monkeypatch.setenv(UNSAFE_VARIABLE, "1")
    with pytest.raises(ValueError, match=f"{UNSAFE_VARIABLE} is set"):
        check_pytorch_loading(model)
    monkeypatch.setenv(UNSAFE_VARIABLE, "0")
    check_pytorch_loading(model)


def test_loading_a_model_that_passed_executes_no_code(model, tmp_path):
    import torch

    class Payload:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "executed",)

    file = io.BytesIO()
    torch.save({"weight": Payload()}, file)
    model.layers[1].shims[0]._serialize_model = lambda module: file.getvalue()
    data = model.to_bytes()
    check_pytorch_loading(model)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        model.from_bytes(data)
    assert not (tmp_path / "executed").exists()


def test_invalid_models_are_refused():
    with pytest.raises(TypeError, match="Not a Thinc Model"):
        check_pytorch_loading("model")

"""Running statistics of BatchNorm layers."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from thinc.api import PyTorchShim
from thinc.compat import torch

from .parameters import ModelT, component_models, is_language


def update_batch_norm(
    model: ModelT,
    batches: Iterable[Any],
    *,
    progress: bool = False,
    exclude: Sequence[str] = (),
) -> None:
    """Estimate the running statistics of all BatchNorm layers anew, from data. Averaged
    weights need it: nothing in the training has computed the statistics that belong to them
    (arXiv:1803.05407, section 3.2).

    The layers of wrapped PyTorch models are found. They see every batch as in training,
    and take the plain mean over all batches; the rest of the model predicts, without dropout.
    A model without such layers is left alone, and no data is read. Call it under
    `use_averages` or after `apply_averages`. The new statistics stay.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    batches (Iterable[Any]): What `model.predict` takes; for a spaCy pipeline, lists of texts
        or Docs.
    progress (bool): Show a progress bar, if tqdm is installed.
    exclude (Sequence[str]): Components of a pipeline that keep their statistics, as those that
        are not trained.
    RAISES: TypeError for something that is no model; ValueError for no batches, or for a
        batch that the model cannot take: the old statistics are in place then.
    """
    layers = _batch_norm_layers(model, exclude)
    if not layers:
        return
    backups = [(layer, layer.momentum, layer.training, _statistics(layer)) for layer in layers]
    n_batches = 0
    with ExitStack() as stack:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # PyTorch: a plain mean over all batches.
            # A shim puts its model into evaluation mode whenever it predicts.
            hook = layer.register_forward_pre_hook(_into_training_mode)
            stack.callback(hook.remove)
        try:
            for batch in _with_progress(batches) if progress else batches:
                n_batches += 1
                try:
                    _predict(model, batch)
                except Exception as error:
                    raise ValueError(
                        f"The model cannot take batch {n_batches} ({type(batch).__name__}) "
                        f"of the data for BatchNorm: {error}"
                    ) from error
            if n_batches == 0:
                raise ValueError("There are no batches to estimate BatchNorm statistics from")
        except BaseException:
            for layer, _, _, statistics in backups:
                for name, value in statistics.items():
                    getattr(layer, name).copy_(value)
            raise
        finally:
            for layer, momentum, training, _ in backups:
                layer.momentum = momentum
                layer.training = training


def get_batch_norm(model: ModelT, *, exclude: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Copies of the running statistics of all BatchNorm layers.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    exclude (Sequence[str]): Components of a pipeline to leave out.
    RETURNS (list[dict[str, Any]]): One dict of tensors per layer; empty without such layers.
    """
    return [_statistics(layer) for layer in _batch_norm_layers(model, exclude)]


def set_batch_norm(
    model: ModelT, statistics: list[dict[str, Any]], *, exclude: Sequence[str] = ()
) -> None:
    """Write running statistics into a model, bit for bit.

    model (Model | Language): The model that the statistics were read from.
    statistics (list[dict[str, Any]]): As `get_batch_norm` returned them.
    exclude (Sequence[str]): The components that were left out there.
    """
    for layer, values in zip(_batch_norm_layers(model, exclude), statistics, strict=True):
        for name, value in values.items():
            getattr(layer, name).copy_(value)


def _predict(model: ModelT, batch: Any) -> None:
    if is_language(model):
        for _ in model.pipe(batch):
            pass
    else:
        model.predict(batch)


def _batch_norm_layers(model: ModelT, exclude: Sequence[str]) -> list[Any]:
    return [
        layer
        for component, root in component_models(model)
        if component not in exclude
        for node in root.walk()
        for shim in node.shims
        if isinstance(shim, PyTorchShim) and shim._model is not None
        for layer in shim._model.modules()
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)
        and layer.running_mean is not None
    ]


def _statistics(layer: Any) -> dict[str, Any]:
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: getattr(layer, name).clone() for name in names}


def _into_training_mode(layer: Any, inputs: Any) -> None:
    layer.training = True


def _with_progress(batches: Iterable[Any]) -> Iterable[Any]:
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    progress: Iterable[Any] = tqdm(batches, desc="BatchNorm", unit="batch")
    return progress

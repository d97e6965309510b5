"""Running statistics of BatchNorm layers."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from thinc.compat import torch

from .parameters import ModelT, is_language, named_shims


def update_batch_norm(
    model: ModelT,
    batches: Iterable[Any],
    *,
    progress: bool = False,
    exclude: Sequence[str] = (),
) -> None:
    """Re-estimate the running statistics of all BatchNorm layers from data. Averaged weights
    need this, because training computes the statistics of the raw weights only
    (arXiv:1803.05407, section 3.2).

    All BatchNorm layers of wrapped PyTorch models are updated, with the mean over all batches.
    They are in training mode, and the rest of the model is in evaluation mode, without dropout.
    If the model has no such layers, no data is read. Call this inside `use_averages` or after
    `apply_averages`. The statistics are kept when `use_averages` ends.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    batches (Iterable[Any]): Inputs of `model.predict`; for a spaCy pipeline, lists of texts or
        Docs.
    progress (bool): Show a progress bar, if rich is installed.
    exclude (Sequence[str]): The names of pipeline components that keep their statistics, for
        example frozen components.
    RAISES: TypeError if the model has the wrong type; ValueError if there are no batches, or if
        the model fails on a batch. The statistics are unchanged after an error.
    """
    layers = _batch_norm_layers(model, exclude)
    if not layers:
        return
    backups = [(layer, layer.momentum, layer.training, _statistics(layer)) for layer in layers]
    n_batches = 0
    with ExitStack() as stack:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # In PyTorch: the mean over all batches.
            # The shim switches its model to evaluation mode in every prediction.
            hook = layer.register_forward_pre_hook(_switch_to_training_mode)
            stack.callback(hook.remove)
        try:
            for batch in _with_progress(batches) if progress else batches:
                n_batches += 1
                try:
                    _predict(model, batch)
                except Exception as error:
                    raise ValueError(
                        f"The model failed on batch {n_batches} ({type(batch).__name__}) of "
                        f"the data for BatchNorm: {error}"
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
    """Copy the running statistics of all BatchNorm layers.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    exclude (Sequence[str]): The names of pipeline components to leave out.
    RETURNS (list[dict[str, Any]]): One dict of tensors per layer; empty without
        BatchNorm layers.
    """
    return [_statistics(layer) for layer in _batch_norm_layers(model, exclude)]


def set_batch_norm(
    model: ModelT, statistics: list[dict[str, Any]], *, exclude: Sequence[str] = ()
) -> None:
    """Restore running statistics bit for bit.

    model (Model | Language): The model that the statistics were read from.
    statistics (list[dict[str, Any]]): As `get_batch_norm` returned them.
    exclude (Sequence[str]): The components that were left out.
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
        for _, shim in named_shims(model, exclude=exclude)
        if shim._model is not None
        for layer in shim._model.modules()
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)
        and layer.running_mean is not None
    ]


def _statistics(layer: Any) -> dict[str, Any]:
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: getattr(layer, name).clone() for name in names}


def _switch_to_training_mode(layer: Any, inputs: Any) -> None:
    layer.training = True


def _with_progress(batches: Iterable[Any]) -> Iterable[Any]:
    """Show a progress bar while iterating, if rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return batches
    return track(batches, description="BatchNorm", console=Console(stderr=True))

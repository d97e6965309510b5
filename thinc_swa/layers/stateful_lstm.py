"""LSTM whose hidden state goes on from one batch to the next."""

from collections.abc import Callable
from typing import Any

from thinc.api import Model, glorot_uniform_init
from thinc.types import Padded

from ..types import Array
from ..validation import check_int

# Input gate, forget gate, output gate and candidate.
N_GATES = 4
# Initial bias of the forget gate (Jozefowicz et al. 2015, section 2.2).
FORGET_BIAS = 1.0


def stateful_lstm(nO: Any | None = None, nI: Any | None = None) -> Model[Padded, Padded]:
    """`StatefulLSTM.v1`: an LSTM layer (Hochreiter & Schmidhuber 1997) whose hidden state and
    cell state at the end of a batch are the initial ones of the next, for truncated
    backpropagation through time.

    Sequence i of a batch continues sequence i of the batch before, in predictions too, until
    the layer is reset: then they begin with zeros. Gradients do not reach back into earlier
    batches. The state is in `model.attrs["state"]`: None, or the hidden states and the cell
    states, of shape (sequences, nO). It never belongs to a saved model of `Trainer`.

    Weights are initialized with Glorot's uniform distribution, the biases with 0, and those of
    the forget gate with 1. Parameters are W (4 nO, nI), U (4 nO, nO) and b (4 nO).

    nO (int | None): The width of the outputs and of the state.
    nI (int | None): The width of the inputs; by default that of the first data.
    RETURNS (Model): A layer for `Padded`, as Thinc's `LSTM.v1`: put it into `with_padded.v1`
        for lists of sequences.
    RAISES: ValueError if a width is not an int >= 1, and in training and prediction if a batch
        has another number of sequences than the one before.
    """
    widths = {"nO": nO, "nI": nI}
    for name, width in widths.items():
        if width is not None:
            check_int(name, width, minimum=1)
    return Model(
        "stateful_lstm",
        _forward,
        init=_initialize,
        dims=widths,
        params={"W": None, "U": None, "b": None},
        attrs={"state": None, "reset": _reset},
    )


def _reset(model: Model[Any, Any]) -> None:
    model.attrs["state"] = None


def _initialize(
    model: Model[Padded, Padded], X: Padded | None = None, Y: Padded | None = None
) -> None:
    for name, data in (("nI", X), ("nO", Y)):
        if data is not None and model.has_dim(name) is None:
            model.set_dim(name, data.data.shape[-1])
    ops, nO, nI = model.ops, model.get_dim("nO"), model.get_dim("nI")
    for name, width in (("W", nI), ("U", nO)):
        gates = [glorot_uniform_init(ops, (nO, width)) for _ in range(N_GATES)]
        model.set_param(name, ops.xp.concatenate(gates))
    biases: Array = ops.alloc1f(N_GATES * nO)
    biases[nO : 2 * nO] = FORGET_BIAS
    model.set_param("b", biases)


def _forward(
    model: Model[Padded, Padded], inputs: Padded, is_train: bool
) -> tuple[Padded, Callable[[Padded], Padded]]:
    ops: Any = model.ops
    xp, nO = ops.xp, model.get_dim("nO")
    W: Array = model.get_param("W")
    U: Array = model.get_param("U")
    X: Array = inputs.data
    n_steps, n_sequences = X.shape[:2]
    # The number of sequences that are not over yet at each step: the longest comes first.
    sizes = [int(size) for size in inputs.size_at_t]
    flat = ops.as_contig(X.reshape(n_steps * n_sequences, -1))
    gates = ops.gemm(flat, W, trans2=True) + model.get_param("b")
    gates = gates.reshape(n_steps, n_sequences, N_GATES * nO)
    # Values of all steps, with the initial ones first.
    hidden = xp.zeros((n_steps + 1, n_sequences, nO), dtype="f")
    cells = xp.zeros((n_steps + 1, n_sequences, nO), dtype="f")
    hidden[0], cells[0] = _initial_state(model, inputs)
    for t, size in enumerate(sizes):
        gate = gates[t, :size]
        gate += ops.gemm(hidden[t, :size], U, trans2=True)
        # The logistic function without overflow.
        gate[:, : 3 * nO] = 0.5 * xp.tanh(0.5 * gate[:, : 3 * nO]) + 0.5
        gate[:, 3 * nO :] = xp.tanh(gate[:, 3 * nO :])
        input_gate, forget_gate, output_gate, candidate = _split(gate, nO)
        # The state of a sequence that is over stays.
        cells[t + 1] = cells[t]
        hidden[t + 1] = hidden[t]
        cells[t + 1, :size] = forget_gate * cells[t, :size] + input_gate * candidate
        hidden[t + 1, :size] = output_gate * xp.tanh(cells[t + 1, :size])
    _keep_state(model, inputs, hidden[-1], cells[-1])

    def backprop(d_Y: Padded) -> Padded:
        dY: Array = d_Y.data
        d_gates = xp.zeros_like(gates)
        d_hidden = xp.zeros((n_sequences, nO), dtype="f")
        d_cells = xp.zeros((n_sequences, nO), dtype="f")
        for t in range(n_steps - 1, -1, -1):
            size = sizes[t]
            input_gate, forget_gate, output_gate, candidate = _split(gates[t, :size], nO)
            d_h = d_hidden[:size] + dY[t, :size]
            activated = xp.tanh(cells[t + 1, :size])
            d_c = d_cells[:size] + d_h * output_gate * (1.0 - activated**2)
            d_input, d_forget, d_output, d_candidate = _split(d_gates[t, :size], nO)
            d_input[...] = d_c * candidate * input_gate * (1.0 - input_gate)
            d_forget[...] = d_c * cells[t, :size] * forget_gate * (1.0 - forget_gate)
            d_output[...] = d_h * activated * output_gate * (1.0 - output_gate)
            d_candidate[...] = d_c * input_gate * (1.0 - candidate**2)
            d_cells[:size] = d_c * forget_gate
            d_hidden[:size] = ops.gemm(d_gates[t, :size], U)
        flat_gradient = d_gates.reshape(n_steps * n_sequences, -1)
        before = hidden[:-1].reshape(n_steps * n_sequences, nO)
        model.inc_grad("W", ops.gemm(flat_gradient, flat, trans1=True))
        model.inc_grad("U", ops.gemm(flat_gradient, before, trans1=True))
        model.inc_grad("b", flat_gradient.sum(axis=0))
        return _like(inputs, ops.gemm(flat_gradient, W).reshape(X.shape))

    Y = hidden[1:].copy()
    for t, size in enumerate(sizes):
        Y[t, size:] = 0.0
    return _like(inputs, Y), backprop


def _split(gates: Array, nO: int) -> list[Array]:
    """Views of the four parts of the columns."""
    return [gates[:, i * nO : (i + 1) * nO] for i in range(N_GATES)]


def _like(batch: Padded, data: Any) -> Padded:
    return Padded(data, batch.size_at_t, batch.lengths, batch.indices)


def _initial_state(model: Model[Any, Any], batch: Padded) -> tuple[Any, Any]:
    """The initial hidden states and cell states, in the order of the batch."""
    state = model.attrs["state"]
    if state is None:
        return 0.0, 0.0
    hidden, cells = state
    if len(hidden) != len(batch):
        raise ValueError(
            f"StatefulLSTM has the state of {len(hidden)} sequences, but the batch has "
            f"{len(batch)}: reset the layer before batches of another size"
        )
    return hidden[batch.indices], cells[batch.indices]


def _keep_state(model: Model[Any, Any], batch: Padded, hidden: Any, cells: Any) -> None:
    """Keep the state in the original order of the sequences, which are sorted by length."""
    arrays = []
    for values in (hidden, cells):
        array = model.ops.xp.zeros_like(values)
        array[batch.indices] = values
        arrays.append(array)
    model.attrs["state"] = tuple(arrays)

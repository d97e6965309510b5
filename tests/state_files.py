"""Reading and forging of state files, and assertions that they are refused."""

import hashlib
import json

import numpy
import pytest
from optimizer_states import assert_same, keys_of, state_of
from training_cases import make_model

from thinc_swa import load_optimizer


class assert_unchanged:
    """A context that checks at its end that the optimizer and the model are unchanged."""

    def __init__(self, optimizer, model):
        self.pair = optimizer, model

    def __enter__(self):
        self.before = state_of(*self.pair)

    def __exit__(self, *error):
        if error[0] is None:
            assert_same(state_of(*self.pair), self.before)


def assert_refused(path, make_optimizer, message, make=make_model, error=ValueError):
    """Check that loading fails with one clear error, and that the optimizer, the positions of
    its schedules and the files in the folder are unchanged."""
    optimizer, twin = make_optimizer(), make_optimizer()
    model, twin_model = make(), make()
    twin_model.from_bytes(model.to_bytes())
    names = sorted(path.parent.iterdir())
    content = path.read_bytes() if path.is_file() else None
    with assert_unchanged(optimizer, model):
        with pytest.raises(error, match=message) as caught:
            load_optimizer(path, optimizer, model)
    assert_clear(caught.value, path)
    assert sorted(path.parent.iterdir()) == names
    assert content is None or path.read_bytes() == content
    for one_model, one in ((model, optimizer), (twin_model, twin)):
        for number in range(9):
            for key, weights in keys_of(one_model).items():
                one(key, weights, numpy.full_like(weights, 0.1 * number))
            one.step_schedules()
    assert_same(state_of(optimizer, model), state_of(twin, twin_model))


def assert_clear(error, path):
    """Check the type of an error, its message, and that it has a single traceback."""
    assert type(error) is ValueError or isinstance(error, OSError), repr(error)
    assert path.name in str(error) or "position of the schedules" in str(error)
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)


def read_file(content):
    """The header of safetensors and the header of the optimizer state."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["state"])


def forge(content, *, metadata=None, state=None, tensors=None):
    """Change the contents of a file, but keep its format and its checksum valid.

    metadata (dict[str, str] | None): New metadata.
    state (Callable | None): Changes the header of the optimizer state in place.
    tensors (Callable | None): Changes the header of safetensors in place.
    """
    header, old_state = read_file(content)
    data = content[8 + int.from_bytes(content[:8], "little") :]
    if state:
        state(old_state)
        text = json.dumps(old_state)
        checksum = hashlib.sha256(text.encode("utf8")).hexdigest()
        header["__metadata__"].update(state=text, checksum=checksum)
    header["__metadata__"].update(metadata or {})
    if tensors:
        tensors(header)
    encoded = json.dumps(header).encode("utf8")
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data

"""Damaged files and files of other formats are refused, and the optimizer is unchanged."""

import pickle
import random
import re
import sys
from pathlib import Path

import numpy
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from new_process import run_in_new_process
from optimizer_states import assert_same, state_of
from state_files import assert_clear, assert_refused, assert_unchanged, forge, read_file
from training_cases import make_model, make_nested_swa, make_trained

from thinc_swa import load_optimizer, save_optimizer


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def make_other_safetensors_file(content):
    return safetensors.numpy.save({"W": numpy.ones((3, 3), dtype="f")})


def rename_array(header):
    name = next(name for name in header if name != "__metadata__")
    header["x" + name] = header.pop(name)


def retype_array(header):
    next(part for name, part in header.items() if name != "__metadata__")["dtype"] = "I32"


def swap_arrays(header):
    """Swap two arrays of the same size and different shapes."""
    names = [name for name in header if name.endswith(("mom1/1/W", "slow/1/W"))]
    assert len(names) == 2
    header[names[0]], header[names[1]] = header[names[1]], header[names[0]]


def falsify_shapes(header):
    for part in header.values():
        if "shape" in part:
            part["shape"] = [2**40]
            part["data_offsets"] = [0, 2**42]


DAMAGES = {
    "empty": (lambda content: b"", "damaged or is not a safetensors file"),
    "random": (
        lambda content: random.Random(0).randbytes(5000),
        "damaged or is not a safetensors file",
    ),
    "text": (
        lambda content: b"[training.optimizer]\n" * 99,
        "damaged or is not a safetensors file",
    ),
    "pickle": (
        lambda content: pickle.dumps([Bomb()] * 9),
        "damaged or is not a safetensors file",
    ),
    "zeros": (lambda content: bytes(5000), "damaged or is not a safetensors file"),
    "other safetensors": (
        make_other_safetensors_file,
        "is not an optimizer state: load a file",
    ),
    "no metadata": (
        lambda content: forge(content, tensors=lambda header: header.pop("__metadata__")),
        "is not an optimizer state",
    ),
    "newer": (
        lambda content: forge(content, metadata={"version": "4"}),
        "version 4 of the format.*reads versions up to 3: install",
    ),
    "older": (
        lambda content: forge(content, metadata={"version": "0"}),
        "version 0 of the format",
    ),
    "other Thinc": (
        lambda content: forge(
            content,
            state=lambda state: (
                state.update(thinc="7.0"),
                state["optimizers"][-1]["state"].update(new=1),
            ),
        ),
        "from Thinc 7.0, not",
    ),
    "checksum": (
        lambda content: forge(content, metadata={"checksum": "0" * 64}),
        "header does not match its checksum",
    ),
    "an array's name": (
        lambda content: forge(content, tensors=rename_array),
        "arrays do not match its header",
    ),
    "an array's type": (
        lambda content: forge(content, tensors=retype_array),
        "arrays do not match its header",
    ),
    "an array's shape": (
        lambda content: forge(content, tensors=swap_arrays),
        "arrays do not match its header",
    ),
    "huge arrays": (
        lambda content: forge(content, tensors=falsify_shapes),
        "damaged or is not a safetensors file",
    ),
    "more at the end": (lambda content: content + b"0", "damaged or is not a safetensors file"),
    "one array less": (lambda content: content[:-4], "damaged or is not a safetensors file"),
}


for _length in (0, 7, 8, 9, 10**3, 99_999_999, 10**8 + 1, 2**40, 2**63 - 1, 2**64 - 1):
    DAMAGES[f"header of {_length}"] = (
        lambda content, length=_length: length.to_bytes(8, "little") + content[8:],
        "damaged or is not a safetensors file",
    )


@pytest.mark.parametrize("damage, message", DAMAGES.values(), ids=DAMAGES)
def test_other_and_damaged_files_are_refused(
    damage, message, saved_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "optimizer"
    path.write_bytes(damage(saved_file[0]))
    assert_refused(path, make_nested_swa, message)
    assert_refused_by_trained(path, message)
    assert list(tmp_path.iterdir()) == [path]


def assert_refused_by_trained(path, message):
    model, optimizer = make_trained(make_nested_swa)
    with assert_unchanged(optimizer, model), pytest.raises(ValueError, match=message):
        load_optimizer(path, optimizer, model)


def test_truncated_files_are_refused(saved_file, tmp_path):
    """Lengths within the header's length field, within the header and within the arrays."""
    content, start = saved_file
    lengths = {
        *range(0, 12),
        *range(start - 3, start + 9),
        *range(len(content) - 9, len(content)),
    }
    lengths.update(range(12, len(content), 131))
    model, optimizer = make_trained(make_nested_swa)
    path = tmp_path / "optimizer"
    with assert_unchanged(optimizer, model):
        for length in lengths:
            path.write_bytes(content[:length])
            with pytest.raises(
                ValueError, match="damaged or is not a safetensors file"
            ) as error:
                load_optimizer(path, optimizer, model)
            assert_clear(error.value, path)
    path.write_bytes(content)
    load_optimizer(path, make_nested_swa(), model)


@pytest.mark.parametrize("bit", [0, 3, 5])
def test_flipped_header_bits_are_refused(saved_file, bit, tmp_path):
    content, start = saved_file
    model, optimizer = make_trained(make_nested_swa)
    path = tmp_path / "optimizer"
    with assert_unchanged(optimizer, model):
        for position in range(bit, start, 13):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(ValueError) as caught:
                load_optimizer(path, optimizer, model)
            assert_clear(caught.value, path)
            assert (
                "damaged" in str(caught.value)
                or "the format" in str(caught.value)
                or ("is not an optimizer state" in str(caught.value))
            ), position


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bits_anywhere_are_refused(saved_file, seed, tmp_path):
    """A flipped bit anywhere in the file is detected."""
    content, start = saved_file
    model, optimizer = make_trained(make_nested_swa)
    path = tmp_path / "optimizer"
    generator = random.Random(seed)
    n_refused = 0
    with assert_unchanged(optimizer, model):
        for number in range(400):
            # Half of them in the arrays.
            first, last = (start, len(content)) if number % 2 else (0, start)
            flipped = bytearray(content)
            flipped[generator.randrange(first, last)] ^= 1 << generator.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises(ValueError) as caught:
                load_optimizer(path, optimizer, model)
            assert_clear(caught.value, path)
            n_refused += "does not match its checksum" in str(caught.value)
    assert n_refused >= 200


def test_error_names_the_damaged_array(saved_file, tmp_path):
    content, start = saved_file
    header, _ = read_file(content)
    path = tmp_path / "optimizer"
    places = {n: place["data_offsets"] for n, place in header.items() if n != "__metadata__"}
    assert len(places) > 9
    for name, (first, last) in places.items():
        for position in (first, last - 1):
            damaged = bytearray(content)
            damaged[start + position] ^= 128
            path.write_bytes(damaged)
            message = f"damaged: the array {re.escape(name)} does not match its checksum"
            assert_refused(path, make_nested_swa, message)


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "truncate", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.booleans(),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=3,
)


def mutate(content, start, mutations):
    for kind, place, is_header, data in mutations:
        content = bytes(content)
        position = int(place * (min(start, len(content)) if is_header else len(content)))
        end = position + len(data)
        if kind == "flip" and position < len(content):
            flipped = bytearray(content)
            flipped[position] ^= data[0] or 1
            content = bytes(flipped)
        elif kind == "insert":
            content = content[:position] + data + content[position:]
        elif kind == "delete":
            content = content[:position] + content[end:]
        elif kind == "truncate":
            content = content[:position]
        elif kind == "repeat":
            content = content[:position] + content[position:end] * 2 + content[end:]
    return content


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mutations=MUTATIONS)
def test_fuzzed_files_are_loaded_unchanged_or_refused(saved_file, tmp_path, mutations):
    """A mutated file either has the same contents or is refused."""
    content, start = saved_file
    path = tmp_path / "optimizer"
    mutated = mutate(content, start, mutations)
    path.write_bytes(mutated)
    model, optimizer = make_model(), make_nested_swa()
    before = state_of(optimizer, model)
    try:
        load_optimizer(path, optimizer, model)
    except (ValueError, OSError) as error:
        assert_clear(error, path)
        assert_same(state_of(optimizer, model), before)
    else:
        assert len(mutated) == len(content) and mutated[start:] == content[start:]
        assert read_file(mutated) == read_file(content)


def load_with_little_memory(folder):
    """Run in a new process with a memory limit."""
    import resource

    model, optimizer = make_trained(make_nested_swa)
    path = Path(folder, "optimizer")
    save_optimizer(path, optimizer, model)
    content = path.read_bytes()
    load_optimizer(path, make_nested_swa(), model)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**26
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    names = [name for name in DAMAGES if name.startswith(("header of", "huge"))]
    assert len(names) > 9
    for name in names:
        path.write_bytes(DAMAGES[name][0](content))
        with pytest.raises(ValueError, match="damaged or is not a safetensors file"):
            load_optimizer(path, optimizer, model)
    # The limit is sufficient for a valid file.
    path.write_bytes(content)
    load_optimizer(path, make_nested_swa(), model)
    with pytest.raises(MemoryError):
        bytearray(2**27)
    print("refused")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_false_sizes_in_headers_allocate_no_memory(tmp_path):
    assert run_in_new_process(load_with_little_memory, tmp_path) == "refused\n"

"""The file format of optimizer states: safetensors, header and checksums."""

import io
import math

import numpy
import pytest
import safetensors.numpy
from optimizer_states import keys_of
from state_files import read_file
from thinc.api import Adam
from training_cases import make_nested_swa, make_trained

from thinc_swa import save_optimizer
from thinc_swa.serialization.state_file import DTYPES, StateReader, write_arrays, write_state


def test_safetensors_reads_written_arrays(tmp_path):
    shapes = {"scalar": (), "empty": (0, 3), "odd": (5,), "matrix": (3, 7)}
    arrays = {
        f"{dtype} {name} \u00fc": (numpy.arange(21)[: math.prod(shape)] % 2)
        .astype(dtype)
        .reshape(shape)
        for dtype in DTYPES.values()
        for name, shape in shapes.items()
    }
    path = tmp_path / "arrays"
    with path.open("wb") as file:
        write_arrays(file, arrays, {"format": "a \u00fc"})
    found = safetensors.numpy.load_file(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    with safetensors.safe_open(path, framework="numpy") as opened:
        assert opened.metadata() == {"format": "a \u00fc"}


def test_file_without_arrays(tmp_path):
    with (tmp_path / "arrays").open("wb") as file:
        write_arrays(file, {})
    assert safetensors.numpy.load_file(tmp_path / "arrays") == {}


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 513, 2**18, 2**18 + 1, 2**20 - 3])
def test_checksum_covers_every_byte_at_row_and_chunk_boundaries(size, tmp_path):
    """Checksums of whole arrays and of their chunks are equal, and cover every byte."""
    array = numpy.random.RandomState(size).uniform(-1, 1, size).astype("f")
    path = tmp_path / "file"
    write_state(path, {"a": 1}, {"x": array, "y": array[: size // 2]})
    content = path.read_bytes()
    with path.open("rb", buffering=0) as file:
        reader = StateReader(path, file)
        assert reader.header["a"] == 1
        read = reader.read_arrays()
    numpy.testing.assert_array_equal(read["x"], array)
    numpy.testing.assert_array_equal(read["y"], array[: size // 2])
    start = content.index(array.tobytes())
    rows = {0, 1, 2047, 2048, 2**20 - 1, 2**20, 4 * size - 1}
    for position in sorted(row for row in rows if row < 4 * size):
        damaged = bytearray(content)
        damaged[start + position] ^= 1
        path.write_bytes(damaged)
        with path.open("rb", buffering=0) as file:
            with pytest.raises(ValueError, match="array x does not match"):
                StateReader(path, file).read_arrays()


@pytest.mark.parametrize("size", [600, 4096])
def test_checksum_detects_reordered_and_zeroed_rows(size, tmp_path):
    array = numpy.random.RandomState(0).uniform(-1, 1, (size, 512)).astype("f")
    path = tmp_path / "file"
    write_state(path, {}, {"x": array})
    content = path.read_bytes()
    start = content.index(array.tobytes())
    for other in (array[::-1], numpy.zeros_like(array), numpy.roll(array, 1)):
        path.write_bytes(content[:start] + numpy.ascontiguousarray(other).tobytes())
        with path.open("rb", buffering=0) as file:
            with pytest.raises(ValueError, match="array x does not match"):
                StateReader(path, file).read_arrays()


def test_header_describes_the_optimizers(saved_file):
    header, state = read_file(saved_file[0])
    assert header["__metadata__"]["format"] == "thinc_swa optimizer state"
    swa, lookahead, adam = state["optimizers"]
    assert (swa["class"], lookahead["class"]) == ("SWA", "Lookahead")
    assert swa["arguments"] == {"start_step": 4, "freq": 2, "learn_rate": 0.01}
    assert swa["state"]["_steps"]["n_steps"] == 7
    assert swa["state"]["_average"]["n_averaged"] == 2
    assert set(adam["state"]["nr_update"]["by parameter"].values()) == {7}
    names = list(state["parameters"])
    assert names == list(adam["state"]["nr_update"]["by parameter"])
    assert all(name.split("/")[0].isdigit() for name in names)
    assert state["parameters"][names[0]] in ([6, 5], [6])


def test_file_contains_only_header_and_arrays(tmp_path):
    """Every byte of the file belongs to the header or to one array."""
    model, optimizer = make_trained(lambda: Adam(0.1))
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    content = (tmp_path / "optimizer").read_bytes()
    header, _ = read_file(content)
    data = io.BytesIO(content[8 + int.from_bytes(content[:8], "little") :])
    expected = {
        array.tobytes()
        for arrays in (optimizer.mom1, optimizer.mom2, optimizer.averages)
        for array in arrays.values()
    }
    parts = sorted(part["data_offsets"] for name, part in header.items() if name[0] != "_")
    assert {data.read(end - start) for start, end in parts} == expected
    assert data.read() == b"" and len(parts) == 3 * len(keys_of(model))


def test_files_do_not_depend_on_node_ids(tmp_path):
    """The headers of two equal models with different ids are equal."""
    headers, keys = [], []
    for _ in range(2):
        model, optimizer = make_trained(make_nested_swa)
        save_optimizer(tmp_path / "optimizer", optimizer, model)
        headers.append(read_file((tmp_path / "optimizer").read_bytes()))
        keys.append(set(keys_of(model)))
    assert headers[0] == headers[1] and not keys[0] & keys[1]

"""File format of optimizer state and of snapshots of averages: safetensors, with checksums of
the header and the arrays.

Arrays are read in chunks that fit into the CPU cache, and each chunk is added to the checksum
immediately. This is faster than reading through safetensors without a checksum. Arrays are
written without safetensors, whose temporary files remain in the folder of a killed process.
"""

import hashlib
import json
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy
from safetensors import SafetensorError, safe_open

from ..types import Array
from .files import atomic_write

FORMAT = "thinc_swa optimizer state"
FORMAT_VERSION = 3

# Files of version 1 have no checksums of arrays and no positions of generators.
READABLE_VERSIONS = (1, 2, FORMAT_VERSION)


class FileKind(NamedTuple):
    """What a file of this format contains.

    format (str): The name of the format in the file.
    versions (tuple[int, ...]): The versions that can be read; the last one is written.
    content (str): What such a file is, for errors: "an optimizer state".
    writer (str): The function that writes it.
    """

    format: str
    versions: tuple[int, ...]
    content: str
    writer: str


OPTIMIZER_STATE = FileKind(FORMAT, READABLE_VERSIONS, "an optimizer state", "save_optimizer")

# The names of NumPy dtypes by their names in safetensors.
DTYPES = {
    **{"F16": "float16", "F32": "float32", "F64": "float64"},
    **{"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
    **{"U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool"},
}
_FORMAT_DTYPES = {numpy.dtype(dtype): name for name, dtype in DTYPES.items()}

# The number of bytes that are summed to one 64-bit number for the checksum, and the number of
# bytes per read, a multiple of the former.
ROW_SIZE = 2048
CHUNK_SIZE = 2**20


def write_state(
    path: Path,
    header: dict[str, Any],
    arrays: dict[str, Array],
    kind: FileKind = OPTIMIZER_STATE,
) -> None:
    """Write a state file atomically.

    path (Path): The file, in an existing folder.
    header (dict[str, Any]): The description of the state, for JSON.
    arrays (dict[str, Array]): NumPy arrays by name, contiguous.
    kind (FileKind): What the file contains.
    RAISES: OSError if the file cannot be written.
    """
    header = {**header, "arrays": {name: _describe(array) for name, array in arrays.items()}}
    text = json.dumps(header, default=float)
    metadata = {
        "format": kind.format,
        "version": str(kind.versions[-1]),
        "state": text,
        "checksum": _checksum_of_text(text),
    }
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        write_arrays(file, arrays, metadata)


def write_arrays(
    file: BinaryIO, arrays: dict[str, Array], metadata: dict[str, str] | None = None
) -> None:
    """Write arrays in the safetensors format without copying them in memory.

    file (BinaryIO): The file to write to.
    arrays (dict[str, Array]): NumPy arrays by name, contiguous.
    metadata (dict[str, str] | None): Metadata for the header of safetensors.
    RAISES: KeyError if safetensors does not support the dtype of an array.
    """
    # In descending order of item sizes, every array is aligned, as safetensors requires.
    items = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, array in items:
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _FORMAT_DTYPES[array.dtype],
            "shape": array.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf8")
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in items:
        file.write(_bytes_of(array).data)


class StateReader:
    """Reader of a state file. The constructor checks the header, `read_arrays` the arrays.

    path (Path): The path of the file.
    file (FileIO): The file, open for unbuffered reading.
    kind (FileKind): What the file must contain.
    RAISES: ValueError if it is not such a file, is damaged, or has an unsupported version.
    """

    header: dict[str, Any]
    version: int

    def __init__(self, path: Path, file: FileIO, kind: FileKind = OPTIMIZER_STATE) -> None:
        self._path = path
        self._kind = kind
        self._file = file
        try:
            # safetensors checks lengths, names, dtypes, shapes and offsets.
            with safe_open(path, framework="numpy") as checked:
                metadata = checked.metadata() or {}
        except SafetensorError as error:
            raise ValueError(
                f"{path} is damaged or is not a safetensors file: {error}. Load another file"
            ) from None
        self._read_metadata(metadata)
        self._locations = self._find_arrays(metadata)
        found = {
            name: [location.dtype, location.shape] for name, location in self._locations.items()
        }
        expected = self.header.get("arrays")
        if not isinstance(expected, dict) or found != {
            name: entry[:2] if isinstance(entry, list) else None
            for name, entry in expected.items()
        }:
            raise ValueError(f"{path} is damaged: its arrays do not match its header")

    def _read_metadata(self, metadata: dict[str, str]) -> None:
        path, version, kind = self._path, metadata.get("version", ""), self._kind
        if metadata.get("format") != kind.format:
            raise ValueError(
                f"{path} is not {kind.content}: load a file written by {kind.writer}"
            )
        if version not in [str(readable) for readable in kind.versions]:
            raise ValueError(
                f"{path} has version {version} of the format, but this thinc_swa reads "
                f"versions up to {kind.versions[-1]}: install the thinc_swa that wrote the file"
            )
        self.version = int(version)
        text = metadata.get("state", "")
        if metadata.get("checksum") != _checksum_of_text(text):
            raise ValueError(f"{path} is damaged: its header does not match its checksum")
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError(f"{path} is damaged: its header does not describe a state")
        self.header = header

    def _find_arrays(self, metadata: dict[str, str]) -> dict[str, "_ArrayLocation"]:
        """Read the locations of the arrays from the header of safetensors."""
        length = int.from_bytes(self._file.read(8), "little")
        entries: dict[str, Any] = json.loads(self._file.read(length))
        if entries.pop("__metadata__") != metadata:
            raise ValueError(f"{self._path} was replaced while it was read: load it again")
        return {
            name: _ArrayLocation(
                DTYPES.get(entry["dtype"], entry["dtype"]),
                entry["shape"],
                8 + length + entry["data_offsets"][0],
            )
            for name, entry in entries.items()
        }

    def read_arrays(self) -> dict[str, Array]:
        """Read all arrays.

        RETURNS (dict[str, Array]): NumPy arrays by name.
        RAISES: ValueError if an array does not match its checksum.
        """
        return {name: self.read_array(name, self._file) for name in self._locations}

    def read_array(self, name: str, file: FileIO) -> Array:
        """Read one array.

        name (str): Its name, which must be in `header["arrays"]`.
        file (FileIO): The file, which may have been opened again.
        RETURNS (Array): A NumPy array.
        RAISES: ValueError if it does not match its checksum.
        """
        location = self._locations[name]
        array = numpy.empty(location.shape, dtype=location.dtype)
        file.seek(location.offset)
        # Files of version 1 have no checksums of arrays.
        expected: str | None = next(iter(self.header["arrays"][name][2:]), None)
        checksum = _Checksum()
        data = _bytes_of(array)
        for start in range(0, len(data), CHUNK_SIZE):
            chunk = data[start : start + CHUNK_SIZE]
            if file.readinto(chunk.data) != len(chunk):
                raise ValueError(f"{self._path} is damaged: the array {name} is truncated")
            if expected is not None:
                checksum.update(chunk)
        if expected is not None and expected != checksum.digest():
            raise ValueError(
                f"{self._path} is damaged: the array {name} does not match its checksum. "
                "Load another file"
            )
        return array


class _ArrayLocation(NamedTuple):
    """The dtype, shape and offset in bytes of an array in a file."""

    dtype: str
    shape: list[int]
    offset: int


class _Checksum:
    """A checksum at the speed of memory: a hash of the sums of short rows of 64-bit numbers.

    It detects every change of a single number, and every other change that changes the sum of a
    row. It protects against damage, not against forgery.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def update(self, data: Array) -> None:
        """Add bytes to the checksum.

        data (Array): All bytes of an array, or a multiple of ROW_SIZE of them.
        """
        whole = len(data) - len(data) % ROW_SIZE
        numbers = data[:whole].view("<u8").reshape(-1, ROW_SIZE // 8)
        self._hash.update(numpy.add.reduce(numbers, axis=1).astype("<u8", copy=False))
        self._hash.update(data[whole:])

    def digest(self) -> str:
        return self._hash.hexdigest()


def _describe(array: Array) -> list[Any]:
    """The dtype, shape and checksum of an array."""
    checksum = _Checksum()
    checksum.update(_bytes_of(array))
    return [array.dtype.name, list(array.shape), checksum.digest()]


def _bytes_of(array: Array) -> Array:
    """The memory of a contiguous array as an array of bytes."""
    return array.reshape(-1).view(numpy.uint8)


def _checksum_of_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf8")).hexdigest()

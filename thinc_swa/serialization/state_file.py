"""The file of an optimizer's state: safetensors, with checksums of its header and its arrays.

Arrays are read and checked in pieces that are still in the cache, which takes less time than
reading them through safetensors without a check. They are written without safetensors, whose
temporary files would stay in the folder after a kill.
"""

import hashlib
import json
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy
from safetensors import SafetensorError, safe_open

from ..types import Array
from .files import replacing

FORMAT = "thinc_swa optimizer state"
FORMAT_VERSION = 3

# Files of version 1 have no checksums of arrays and no positions of generators.
READABLE_VERSIONS = (1, 2, FORMAT_VERSION)

# By their names in safetensors.
DTYPES = {
    **{"F16": "float16", "F32": "float32", "F64": "float64"},
    **{"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
    **{"U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool"},
}
_FORMAT_DTYPES = {numpy.dtype(dtype): name for name, dtype in DTYPES.items()}

# Bytes of an array that are summed up to 64 bits for its checksum, and bytes that are read at
# a time, a multiple of it.
ROW_SIZE = 2048
PIECE_SIZE = 2**20


def write_state(path: Path, header: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Write a state file atomically.

    header (dict[str, Any]): What describes the state, for JSON.
    arrays (dict[str, Array]): NumPy arrays by name, contiguous.
    RAISES: OSError if the file cannot be written.
    """
    header = {**header, "arrays": {name: _describe(array) for name, array in arrays.items()}}
    text = json.dumps(header, default=float)
    metadata = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "state": text,
        "checksum": _checksum_of_text(text),
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        write_arrays(file, arrays, metadata)


def write_arrays(
    file: BinaryIO, arrays: dict[str, Array], metadata: dict[str, str] | None = None
) -> None:
    """Write arrays in the safetensors format, without a copy of them in memory.

    file (BinaryIO): Where to write.
    arrays (dict[str, Array]): NumPy arrays by name, contiguous.
    metadata (dict[str, str] | None): Further text for the header.
    RAISES: KeyError if the format has no name for the type of an array.
    """
    # With large items first, each is aligned to its size, as safetensors has them.
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
    """A state file that is open. Its header has been checked, its arrays have not been read.

    path (Path): The file.
    file (FileIO): The same, open, without a buffer.
    RAISES: ValueError if it is not a state file, is damaged, or has a version that cannot be
        read.
    """

    header: dict[str, Any]
    version: int

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file
        try:
            # It checks the form: lengths, names, types, shapes and offsets.
            with safe_open(path, framework="numpy") as checked:
                metadata = checked.metadata() or {}
        except SafetensorError as error:
            raise ValueError(
                f"{path} is damaged or is no file of safetensors: {error}. Take another one"
            ) from None
        self._read_metadata(metadata)
        self._places = self._find_arrays(metadata)
        found = {name: [place.dtype, place.shape] for name, place in self._places.items()}
        expected = self.header.get("arrays")
        if not isinstance(expected, dict) or found != {
            name: entry[:2] if isinstance(entry, list) else None
            for name, entry in expected.items()
        }:
            raise ValueError(f"{path} is damaged: its arrays are not those of its header")

    def _read_metadata(self, metadata: dict[str, str]) -> None:
        path, version = self._path, metadata.get("version", "")
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"{path} does not hold an optimizer's state: save_optimizer writes it"
            )
        if version not in [str(readable) for readable in READABLE_VERSIONS]:
            raise ValueError(
                f"{path} has version {version} of the format, but this thinc_swa reads version "
                f"{FORMAT_VERSION}: install the thinc_swa that wrote it"
            )
        self.version = int(version)
        text = metadata.get("state", "")
        if metadata.get("checksum") != _checksum_of_text(text):
            raise ValueError(f"{path} is damaged: its header does not match its checksum")
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError(f"{path} is damaged: its header is no description of a state")
        self.header = header

    def _find_arrays(self, metadata: dict[str, str]) -> dict[str, "_Place"]:
        """Where the arrays are in the file, as safetensors' own header says."""
        length = int.from_bytes(self._file.read(8), "little")
        entries: dict[str, Any] = json.loads(self._file.read(length))
        if entries.pop("__metadata__") != metadata:
            raise ValueError(f"{self._path} was replaced while it was read: read it again")
        return {
            name: _Place(
                DTYPES.get(entry["dtype"], entry["dtype"]),
                entry["shape"],
                8 + length + entry["data_offsets"][0],
            )
            for name, entry in entries.items()
        }

    def read_arrays(self) -> dict[str, Array]:
        """RAISES: ValueError if one does not match its checksum."""
        return {name: self._read_array(name, place) for name, place in self._places.items()}

    def _read_array(self, name: str, place: "_Place") -> Array:
        array = numpy.empty(place.shape, dtype=place.dtype)
        self._file.seek(place.offset)
        # Files of version 1 have none.
        expected: str | None = next(iter(self.header["arrays"][name][2:]), None)
        checksum = _Checksum()
        data = _bytes_of(array)
        for start in range(0, len(data), PIECE_SIZE):
            piece = data[start : start + PIECE_SIZE]
            if self._file.readinto(piece.data) != len(piece):
                raise ValueError(f"{self._path} is damaged: it ends within the array {name}")
            if expected is not None:
                checksum.update(piece)
        if expected is not None and expected != checksum.digest():
            raise ValueError(
                f"{self._path} is damaged: the array {name} does not match its checksum. Take "
                "another one"
            )
        return array


class _Place(NamedTuple):
    """Where an array is in a file."""

    dtype: str
    shape: list[int]
    offset: int


class _Checksum:
    """A checksum that is as fast as memory: a hash of the sums of short rows of 64-bit numbers.

    It finds every change of a single number, and every other change that does not leave the
    sums of all rows as they were. It protects from damage, not from forgery.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def update(self, data: Array) -> None:
        """data (Array): Bytes: all, or a multiple of ROW_SIZE of them."""
        whole = len(data) - len(data) % ROW_SIZE
        numbers = data[:whole].view("<u8").reshape(-1, ROW_SIZE // 8)
        self._hash.update(numpy.add.reduce(numbers, axis=1).astype("<u8", copy=False))
        self._hash.update(data[whole:])

    def digest(self) -> str:
        return self._hash.hexdigest()


def _describe(array: Array) -> list[Any]:
    checksum = _Checksum()
    checksum.update(_bytes_of(array))
    return [array.dtype.name, list(array.shape), checksum.digest()]


def _bytes_of(array: Array) -> Array:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(numpy.uint8)


def _checksum_of_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf8")).hexdigest()

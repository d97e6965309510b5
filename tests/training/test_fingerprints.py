"""Fingerprints of data, files, code and packages."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
from helpers import require
from thinc.api import Config, Ragged
from tiny import make_arrays, make_dataset, write_config

from thinc_swa import about
from thinc_swa.training import fingerprints
from thinc_swa.training.fingerprints import (
    describe_code,
    describe_dataset,
    describe_files,
    describe_inputs,
    describe_packages,
    differences,
    digest,
    digest_file,
    is_exact,
)

# Pairs of values with one difference.
VALUES = [
    None,
    0,
    0.0,
    False,
    1,
    "1",
    b"1",
    "",
    [],
    (),
    {},
    set(),
    [1, 2],
    [2, 1],
    (1, 2),
    [[1], 2],
    [[1, 2]],
    ["ab", "c"],
    ["a", "bc"],
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
    {1, 2},
    {"a", "b", "c", "dd"},
    Path("a"),
    "a",
    "\udc80",
    numpy.float32(1),
    numpy.zeros(3, "f"),
    numpy.zeros(3, "d"),
    numpy.zeros((3, 1), "f"),
    numpy.zeros((0, 3), "f"),
    numpy.zeros((3, 0), "f"),
    numpy.array(0, "f"),
    numpy.array([0.0, -0.0, 0.0], "f"),
    numpy.array([0, numpy.nan, 0], "f"),
    numpy.arange(6, dtype="f").reshape(2, 3),
    numpy.arange(6, dtype="f").reshape(2, 3).T,
    numpy.arange(6, dtype=">f4").reshape(2, 3),
    numpy.array(["a", None], dtype=object),
    numpy.array(["a", "b"], dtype=object),
    numpy.array(["2020-01-01"], dtype="datetime64[D]"),
]


def test_different_values_have_different_digests():
    digests = [digest(value) for value in VALUES]
    assert None not in digests
    assert len(set(digests)) == len(VALUES)


def test_the_same_array_has_the_same_digest_in_any_memory_layout():
    array = numpy.random.default_rng(0).normal(size=(5, 7))
    padded = numpy.zeros((10, 7))
    padded[::2] = array
    for other in (array.copy(), numpy.asfortranarray(array), padded[::2]):
        assert digest(other) == digest(array)
    one_bit = array.copy()
    one_bit.view("u1")[3, 11] ^= 1
    assert digest(one_bit) != digest(array)


@pytest.mark.slow
def test_digests_do_not_depend_on_the_process():
    code = "from test_fingerprints import VALUES, digest; print([digest(v) for v in VALUES])"
    helpers = str(Path(__file__).parents[1])
    paths = os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] == f"{[digest(value) for value in VALUES]}\n"


def test_tensors_have_digests_of_their_content():
    require("torch")
    import torch

    values = [torch.zeros(3), torch.zeros(3, 1), torch.zeros(3).bfloat16(), torch.tensor(0.0)]
    values += [torch.zeros(0), numpy.zeros(3, "f"), torch.tensor([0, 0, 1.0])]
    assert len({digest(value) for value in values}) == len(values)
    assert digest(torch.ones(2, 3).T) == digest(torch.ones(3, 2))
    assert digest(torch.zeros(3).to_sparse()) is None


def test_use_of_ragged_arrays_does_not_change_their_digest():
    ragged = Ragged(numpy.zeros((3, 2), "f"), numpy.array([1, 2], "i"))
    before = digest(ragged)
    ragged[1:]  # Caches something.
    assert digest(ragged) == before is not None
    assert digest(Ragged(numpy.zeros((3, 2), "f"), numpy.array([2, 1], "i"))) != before


@dataclass
class Holder:
    value: object


@pytest.mark.parametrize("hold", [lambda o: o, lambda o: [1, o], lambda o: {o}, Holder])
def test_other_objects_have_no_digest(hold):
    assert digest(hold(object())) is None


# Datasets


def test_a_dataset_is_described_by_its_content():
    (train_X, train_Y), dev = make_dataset()
    description = describe_dataset(((train_X, train_Y), dev))
    assert list(description) == ["train_X", "train_Y", "dev_X", "dev_Y"]
    assert description["train_X"].startswith("50 rows, sha256:")
    assert is_exact(description)
    assert describe_dataset(make_dataset()) == description

    less = describe_dataset(((train_X[:10], train_Y[:10]), dev))
    found = differences(description, less)
    assert len(found) == 2
    assert found[0].startswith("train_X was 50 rows, sha256:")
    assert "… and is 10 rows, sha256:" in found[0]

    train_X = train_X.copy()
    train_X[0, 0] += 1e-6
    found = differences(description, describe_dataset(((train_X, train_Y), dev)))
    assert found == ["the content of train_X has changed"]


def test_a_dataset_of_objects_is_described_by_their_number():
    rows = [object() for _ in range(3)]
    description = describe_dataset(((rows, [1, 2, 3]), (rows, [1, 2, 3])))
    assert description["train_X"] == "3 rows, a list whose content is not compared"
    assert not is_exact(description)


# Files


def spacy_config(**paths):
    config = Config().from_str(
        """
        [paths]
        train = null
        dev = null
        vectors = null

        [nlp]
        lang = "en"

        [corpora]

        [corpora.train]
        path = ${paths.train}

        [training]

        [training.logger]
        output_file = "log.jsonl"

        [components]

        [components.sentencizer]
        punct_chars = [".", "/", "..", "!"]
        """,
        interpolate=False,
    )
    config["paths"].update({name: str(path) for name, path in paths.items()})
    return config


def test_files_that_a_config_names_are_described(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.spacy").write_bytes(b"one")
    (tmp_path / "dev" / "more").mkdir(parents=True)
    (tmp_path / "dev" / "a.spacy").write_bytes(b"two")
    (tmp_path / "dev" / "more" / "b.spacy").write_bytes(b"three")
    (tmp_path / "log.jsonl").write_text("before")
    # The folder has the name of the language.
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "notes.txt").write_text("mine")
    config = spacy_config(train="train.spacy", dev=tmp_path / "dev")
    before = describe_files(config)
    assert set(before) == {"paths.train", "paths.dev"}
    whole = describe_files(config.interpolate())
    assert whole == {**before, "corpora.train.path": before["paths.train"]}

    # Hidden files and the files that the training writes are ignored.
    (tmp_path / "log.jsonl").write_text("after")
    (tmp_path / "dev" / ".hidden.spacy").write_text("mine")
    os.utime(tmp_path / "train.spacy", (0, 0))
    assert describe_files(config) == before

    (tmp_path / "train.spacy").write_bytes(b"other")
    assert differences(before, describe_files(config)) == [
        "the content of paths.train has changed"
    ]
    (tmp_path / "train.spacy").unlink()
    (found,) = differences(before, describe_files(config))
    assert found.startswith("paths.train was sha256:") and found.endswith("is absent now")


@pytest.mark.parametrize("change", ["content", "name", "added", "removed", "swapped"])
def test_folders_of_spacy_files_are_described(tmp_path, change):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.spacy").write_bytes(name.encode())
    config = spacy_config(train=folder)
    before = describe_files(config)
    if change == "content":
        (folder / "b.spacy").write_bytes(b"c")
    elif change == "name":
        (folder / "b.spacy").rename(folder / "c.spacy")
    elif change == "added":
        (folder / "c.spacy").write_bytes(b"")
    elif change == "removed":
        (folder / "a.spacy").unlink()
    else:
        (folder / "a.spacy").write_bytes(b"b")
        (folder / "b.spacy").write_bytes(b"a")
    assert differences(before, describe_files(config)) == [
        "the content of paths.train has changed"
    ]


def test_folders_of_pipelines_are_described(tmp_path):
    folder = tmp_path / "vectors"
    (folder / "vocab").mkdir(parents=True)
    for name in ("config.cfg", "meta.json", "vocab/vectors"):
        (folder / name).write_text(name)
    config = spacy_config(vectors=folder)
    before = describe_files(config)
    (folder / "vocab" / "vectors").write_text("other")
    assert len(differences(before, describe_files(config))) == 1


@pytest.mark.parametrize("name", ["a.npz", "b.jsonl", "deep/c", "new"])
def test_other_folders_are_described_in_sections_for_paths(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for file in ("a.npz", "b.jsonl", "deep/c"):
        (tmp_path / "data" / file).write_text(file)
    config = Config(
        {
            "dataset": {"@datasets": "mine.v1", "folder": "data"},
            "model": {"vectors": "./data", "name": "data"},
        }
    )
    before = describe_files(config)
    assert set(before) == {"dataset.folder", "model.vectors"}
    (tmp_path / "data" / ".hidden").write_text("mine")
    (tmp_path / "data" / "__pycache__").mkdir()
    (tmp_path / "data" / "__pycache__" / "a.pyc").write_text("of an import")
    assert describe_files(config) == before
    (tmp_path / "data" / name).write_text("other")
    assert differences(before, describe_files(config)) == [
        "the content of dataset.folder has changed",
        "the content of model.vectors has changed",
    ]


def test_the_output_folder_is_not_described(tmp_path):
    (tmp_path / "data" / "output" / "runs").mkdir(parents=True)
    (tmp_path / "data" / "a.jsonl").write_text("one")
    config = spacy_config(train=tmp_path / "data", dev=tmp_path / "data" / "output")
    output = tmp_path / "link"
    output.symlink_to(tmp_path / "data" / "output", target_is_directory=True)
    before = describe_files(config, output=output)
    assert set(before) == {"paths.train"}
    (tmp_path / "data" / "output" / "runs" / "log.jsonl").write_text("log")
    assert describe_files(config, output=output) == before
    assert describe_inputs(config, output=output)["paths.train"] == before["paths.train"]
    assert set(describe_files(config)) == {"paths.train", "paths.dev"}


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_links_in_folders_are_followed_once(tmp_path):
    for name in ("data", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data" / "broken").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "data" / "pipe")
    (tmp_path / "elsewhere" / "a.jsonl").write_text("one")
    config = spacy_config(train=tmp_path / "data")
    before = describe_files(config)
    (tmp_path / "elsewhere" / "a.jsonl").write_text("two")
    assert len(differences(before, describe_files(config))) == 1


def test_strings_that_are_not_paths_are_not_described():
    config = Config({"a": {"long": "x" * 10_000, "null": "a\0b", "empty": "", "list": ["."]}})
    assert describe_files(config) == {}


def test_a_large_file_is_read_in_chunks(tmp_path, monkeypatch):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 10)
    whole = digest_file(path)
    monkeypatch.setattr(fingerprints, "CHUNK_SIZE", 7)
    assert digest_file(path) == whole


def test_a_large_file_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch):
    path = tmp_path / "data"
    path.write_bytes(bytes(fingerprints.LARGE))
    os.utime(path, ns=(1, 1))
    before = digest_file(path)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "_read_digest", None)
        assert digest_file(path) == before
    path.write_bytes(b"1" * fingerprints.LARGE)
    assert digest_file(path) != before


# Code, packages, and everything


def test_the_file_of_code_is_described(tmp_path):
    (tmp_path / "code.py").write_text("x = 1")
    before = describe_code(tmp_path / "code.py")
    (tmp_path / "code.py").write_text("x = 2")
    assert differences(before, describe_code(tmp_path / "code.py")) == [
        "the content of code has changed"
    ]
    assert differences({}, before)[0].startswith("code was absent and is sha256:")
    with pytest.raises(FileNotFoundError):
        describe_code(tmp_path / "none.py")


def test_local_modules_that_the_code_imports_are_described(tmp_path, monkeypatch):
    """Also modules imported in functions or by other modules, without executing them."""
    monkeypatch.syspath_prepend(tmp_path / "path")
    files = {
        "code.py": "import beside\nimport thinc, numpy, json, thinc_swa, no_such_module\n"
        "from package import sub, NAME\nfrom spaces.inner import thing\n"
        "def load():\n    import lazy\n    from package import broken\n",
        "beside.py": "import indirect\nraise RuntimeError\n",
        "indirect.py": "import code, beside\n",
        "unused.py": "",
        "path/lazy.py": "",
        "path/package/__init__.py": "NAME = 1\n",
        "path/package/sub.py": "from . import other\nfrom .. import nothing\n",
        "path/package/other.py": "",
        "path/package/broken.py": "1 +",
        "path/spaces/inner.py": "from . import thing\n",
        "path/spaces/thing.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    names = ["beside", "indirect", "lazy", "package", "package.other", "package.sub"]
    names += ["spaces.inner", "spaces.thing"]
    before = describe_code(tmp_path / "code.py")
    # The module beside the file takes precedence over "code" of the standard library.
    found = set(before) - {"module code"}
    assert found == {"code", *(f"module {name}" for name in names)}
    (tmp_path / "path" / "spaces" / "thing.py").write_text("x = 1")
    assert differences(before, describe_code(tmp_path / "code.py")) == [
        "the content of module spaces.thing has changed"
    ]
    assert "no_such_module" not in sys.modules and "beside" not in sys.modules


@pytest.mark.parametrize("text", [b"1 +", b"\0", b"from . import x\n", b"\xff"])
def test_code_that_cannot_be_imported_is_described(tmp_path, text):
    (tmp_path / "code.py").write_bytes(text)
    assert set(describe_code(tmp_path / "code.py")) == {"code"}


def test_versions_of_packages_are_described(monkeypatch):
    import thinc

    found = describe_packages()
    assert found["thinc"] == thinc.__version__
    assert found["numpy"] == numpy.__version__
    assert found["thinc-swa"] == about.__version__
    assert "spacy" not in found
    monkeypatch.setattr(about, "__version__", "99")
    assert differences(found, describe_packages()) == [
        f"thinc-swa was {found['thinc-swa']} and is 99 now"
    ]


def test_the_version_of_spacy_is_described_for_its_configs():
    require("spacy")
    import spacy

    assert describe_packages(is_spacy=True)["spacy"] == spacy.__version__
    assert describe_inputs(spacy_config())["spacy"] == spacy.__version__


def test_inputs_are_files_code_and_packages(tmp_path):
    config = Config().from_disk(write_config(tmp_path))
    (tmp_path / "code.py").write_text("")
    before = describe_inputs(config, code=tmp_path / "code.py")
    assert {"dataset.path", "code", "thinc-swa", "thinc"} <= set(before)
    assert describe_inputs(config, code=tmp_path / "code.py") == before
    assert differences(before, before) == []
    numpy.savez(tmp_path / "data.npz", **make_arrays(n_train=20))
    assert differences(before, describe_inputs(config, code=tmp_path / "code.py")) == [
        "the content of dataset.path has changed"
    ]

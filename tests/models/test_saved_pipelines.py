"""Averages and interpolations of saved spaCy pipelines."""

import json
import shutil
import sys
from pathlib import Path

import numpy
import pytest
from helpers import require
from new_process import run_in_new_process

require("spacy")

import saved_pipelines  # noqa: E402
import spacy  # noqa: E402
from pipelines import assert_close, is_same, run_spacy, weights_of  # noqa: E402
from saved_pipelines import (  # noqa: E402
    change_config,
    change_json,
    make_pipeline,
    save_pipelines,
    train,
)
from thinc.api import Adam  # noqa: E402

from thinc_swa import (  # noqa: E402
    LAWA,
    SWA,
    average_models,
    greedy_soup,
    interpolate_models,
    use_averages,
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return save_pipelines(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture
def paths(originals, tmp_path):
    """Copies that a test may change."""
    return [shutil.copytree(path, tmp_path / path.name) for path in originals]


@pytest.fixture
def mean(originals, tmp_path):
    average_models(originals, tmp_path / "mean")
    return spacy.load(tmp_path / "mean")


def saved_weights(path):
    # Custom components have no weights.
    return weights_of(spacy.load(path, exclude=["thinc_swa_tests_counter", "sentencizer"]))


def mean_of(weights, factors=None):
    return {
        name: numpy.average([each[name] for each in weights], axis=0, weights=factors)
        for name in weights[0]
    }


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_averages_are_those_of_the_weights(originals, mean, tmp_path):
    states = [saved_weights(path) for path in originals]
    assert not is_same(states[0], states[1])
    assert_close(saved_weights(tmp_path / "mean"), mean_of(states))


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_interpolations_are_those_of_the_weights(originals, tmp_path, alpha):
    interpolate_models(*originals[:2], alpha, tmp_path / "between")
    found = saved_weights(tmp_path / "between")
    base, tuned = map(saved_weights, originals[:2])
    assert_close(found, mean_of([base, tuned], [1 - alpha, alpha]))
    if alpha in (0.0, 1.0):
        assert is_same(found, tuned if alpha else base)


def test_everything_else_is_that_of_the_first(originals, mean, tmp_path):
    first = spacy.load(originals[0])
    assert mean.pipe_names == first.pipe_names
    assert mean.config == first.config
    assert mean.meta == {**first.meta, "performance": {}}
    assert mean.pipe_labels == first.pipe_labels
    assert mean.get_pipe("thinc_swa_tests_counter").word == "words"
    assert mean.vocab.lookups.get_table("capitals")["London"] == "England"
    assert mean.vocab.get_vector("saw").tolist() == [2.0] * 8
    assert [token.text for token in mean("alot of it")] == ["a", "lot", "of", "it"]
    doc = mean("I like London a lot. We saw Paris.")
    assert len(list(doc.sents)) == 2 and set(doc.cats) == {"LONG", "SHORT"}
    # Bit for bit, apart from weights, scores and strings.
    models = {"ner/model", "textcat/model", "meta.json", "vocab/strings.json"}
    files = [path for path in originals[0].rglob("*") if path.is_file()]
    assert len(files) > 12
    for path in files:
        name = path.relative_to(originals[0]).as_posix()
        if name not in models:
            assert (tmp_path / "mean" / name).read_bytes() == path.read_bytes()


def test_the_vocabulary_has_all_strings(originals, mean):
    strings = [set(spacy.load(path).vocab.strings) for path in originals]
    assert {f"seed-{i}" for i in range(3)} <= set(mean.vocab.strings)
    assert set(mean.vocab.strings) == set.union(*strings)


def test_the_average_can_be_trained_further(mean):
    before = weights_of_nlp(mean)
    train(mean, 5)
    assert not is_same(weights_of_nlp(mean), before)


def weights_of_nlp(nlp):
    return {
        (name, i, key): node.get_param(key).copy()
        for name in ("ner", "textcat")
        for i, node in enumerate(nlp.get_pipe(name).model.walk())
        for key in node.param_names
        if node.has_param(key)
    }


@pytest.mark.parametrize(
    "make_optimizer, steps",
    [
        (lambda: LAWA(Adam(0.01), window=2, freq=2), (4, 6)),
        (lambda: SWA(Adam(0.01), start_step=2, freq=2), (2, 4, 6)),
    ],
    ids=["LAWA", "SWA"],
)
def test_snapshots_of_a_training_have_the_average_of_the_optimizer(
    tmp_path, make_optimizer, steps
):
    nlp, optimizer, paths = make_pipeline(), make_optimizer(), []

    def save():
        paths.append(tmp_path / str(len(paths) + 1))
        nlp.to_disk(paths[-1])

    train(nlp, 1, 6, optimizer, save)
    with use_averages(nlp, optimizer):
        nlp.to_disk(tmp_path / "averages")
    average_models([paths[step - 1] for step in steps], tmp_path / "mean")
    expected = saved_weights(tmp_path / "averages")
    assert_close(saved_weights(tmp_path / "mean"), expected)
    assert not is_same(saved_weights(paths[-1]), expected)


@pytest.mark.slow
def test_spacy_package(originals, tmp_path):
    average_models(originals, tmp_path / "mean")
    arguments = ("--name", "mean", "--version", "1.2.3", "--build", "none")
    (tmp_path / "dist").mkdir()
    code = Path(saved_pipelines.__file__)
    result = run_spacy(tmp_path, "package", "mean", "dist", "--code", code, *arguments)
    assert result.returncode == 0, result.stderr
    (packaged,) = tmp_path.glob("dist/*/*/*/config.cfg")
    assert is_same(saved_weights(packaged.parent), saved_weights(tmp_path / "mean"))


def test_installed_packages_are_found_by_their_names(originals, tmp_path, monkeypatch):
    package = tmp_path / "installed" / "xx_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    meta = json.loads((originals[0] / "meta.json").read_text())
    (package / "meta.json").write_text(json.dumps(meta))
    shutil.copytree(originals[0], package / f"xx_{meta['name']}-{meta['version']}")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.chdir(tmp_path)
    interpolate_models("xx_package", originals[1], 0.0, "base")
    assert is_same(saved_weights(tmp_path / "base"), saved_weights(originals[0]))
    assert "xx_package" not in sys.modules


def test_files_beside_the_components_may_differ(paths, tmp_path):
    """Licences and the like come from the first."""
    (paths[0] / "LICENSE").write_text("MIT")
    average_models(paths, tmp_path / "mean")
    assert (tmp_path / "mean" / "LICENSE").read_text() == "MIT"
    # So it belongs to the average, which may be overwritten.
    average_models(paths[:2], tmp_path / "mean", overwrite=True)


def test_sets_that_are_saved_in_another_order(paths, tmp_path):
    path = paths[1] / "sentencizer.json"
    change_json(path, lambda value: value["punct_chars"].reverse())
    average_models(paths, tmp_path / "mean")
    change_json(path, lambda value: value["punct_chars"].append("x"))
    assert_refused(tmp_path, paths, "sentencizer.json, punct_chars: x only", overwrite=True)


def test_settings_of_the_training_may_differ(paths, tmp_path):
    change_config(paths[1], "training.dropout", 0.5)
    change_config(paths[1], "nlp.batch_size", 7)
    change_json(paths[1] / "meta.json", lambda meta: meta.update(version="2.0.0", author="x"))
    average_models(paths, tmp_path / "mean")
    nlp = spacy.load(tmp_path / "mean")
    assert nlp.config["training"]["dropout"] == 0.1 and nlp.meta["version"] == "0.0.0"


def test_a_greedy_soup_gets_pipelines(originals, tmp_path):
    soup = greedy_soup(originals, lambda path: len(spacy.load(path).pipe_names), tmp_path / "s")
    assert soup.ingredients == list(originals) and soup.score == 4
    average_models(originals, tmp_path / "mean")
    assert is_same(saved_weights(tmp_path / "s"), saved_weights(tmp_path / "mean"))


# Errors


def assert_refused(folder, paths, message, error=ValueError, output="mean", **options):
    before = contents(folder)
    with pytest.raises(error, match=message) as found:
        average_models(paths, folder / output, **options)
    # Temporary folders too.
    assert contents(folder) == before
    assert "\n" not in str(found.value)


OTHERS = {
    "label": (
        {"label": "TOWN"},
        "labels, ner: CITY only in the first and TOWN only in the other",
    ),
    "width": ({"width": 24}, r"config.cfg, components, ner, model, tok2vec, width: 16 and 24"),
    "vectors": ({"vector": 2.0}, "vocab/vectors differs"),
    "components": ({"pipes": ()}, "meta.json, pipeline: sentencizer only in the first"),
    "data": ({"word": "verbs"}, "thinc_swa_tests_counter/word.json: words and verbs"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_pipelines(paths, tmp_path, name):
    arguments, message = OTHERS[name]
    make_pipeline(**arguments).to_disk(tmp_path / "other")
    both = r"The models differ from the first one, .*seed-0, .*other: .*"
    assert_refused(tmp_path, [*paths, tmp_path / "other"], both + message)
    assert_refused(tmp_path, [*paths, tmp_path / "other"], message, output="new/folder/mean")
    with pytest.raises(ValueError) as found:
        average_models([*paths, tmp_path / "other"], tmp_path / "mean")
    # Those that fit are not named, and shapes are in the same error.
    assert "seed-1" not in str(found.value)
    if name == "width":
        assert "ner/model: layer" in str(found.value)


def test_other_versions_of_spacy(paths, tmp_path):
    versions = {0: ">=3.8.2,<3.9.0", 1: ">=3.8.7,<3.9.0", 2: ">=3.7.4,<3.8.0"}
    for i, version in versions.items():
        change_json(paths[i] / "meta.json", lambda m, v=version: m.update(spacy_version=v))
    assert_refused(tmp_path, paths, r"seed-2: meta.json, spacy_version: 3\.8 and 3\.7$")
    # Patches are compatible.
    average_models(paths[:2], tmp_path / "mean")


def change_lookups(path):
    nlp = spacy.load(path)
    nlp.vocab.lookups.get_table("capitals")["Paris"] = "France"
    nlp.to_disk(path)


def change_tokenizer(path):
    nlp = spacy.load(path)
    nlp.tokenizer.add_special_case("dunno", [{"ORTH": "dun"}, {"ORTH": "no"}])
    nlp.to_disk(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (change_lookups, "seed-1: vocab/lookups.bin"),
        (change_tokenizer, "seed-1: tokenizer"),
        (lambda path: change_config(path, "components.textcat.threshold", 0.7), "threshold"),
        (lambda path: (path / "ner" / "moves").unlink(), "only .*seed-0 has ner/moves"),
        (lambda path: (path / "ner" / "model").unlink(), "only .*seed-0 has ner/model"),
        (lambda path: (path / "ner" / "model").write_text("x"), "not a file of a Thinc model"),
        (lambda path: (path / "ner" / "more").write_text("x"), "only .*seed-1 has ner/more"),
        (lambda path: (path / "ner" / "cfg").write_text("{}"), "seed-1: ner/cfg"),
        (lambda path: (path / "meta.json").unlink(), "seed-1 is not a saved .*no meta.json"),
        (lambda path: (path / "config.cfg").unlink(), "seed-1 is not a saved .*no config.cfg"),
        (lambda path: (path / "meta.json").write_text("{"), "meta.json is damaged"),
        (lambda path: (path / "meta.json").write_text("[]"), "meta.json has no fields"),
        (lambda path: (path / "config.cfg").write_text("x"), "config.cfg is not a config"),
        (lambda path: (path / "vocab/strings.json").write_text("{}"), "not a list of strings"),
    ],
)
def test_files_that_do_not_fit(paths, tmp_path, change, message):
    change(paths[1])
    assert_refused(tmp_path, paths, message)


def test_folders_that_are_no_pipelines(paths, tmp_path):
    (tmp_path / "folder").mkdir()
    for other, error, message in (
        (tmp_path / "folder", ValueError, "it has no config.cfg and no meta.json"),
        (paths[0], ValueError, "are the same model"),
        (tmp_path / "seed-1" / ".." / "seed-0", ValueError, "are the same model"),
        (tmp_path / "missing", FileNotFoundError, "missing"),
        (paths[1] / "ner" / "model", ValueError, "a folder and a file"),
    ):
        assert_refused(tmp_path, [paths[0], other], message, error)


def test_outputs(paths, tmp_path):
    for output in ("seed-1", "seed-0/inside", "seed-0/../seed-1"):
        message = "is one of the models" if "inside" not in output else "inside of one another"
        assert_refused(tmp_path, paths, message, output=output, overwrite=True)
    assert_refused(tmp_path.parent, paths, "inside of one another", output=tmp_path.name)
    (tmp_path / "mean").mkdir()
    average_models(paths, tmp_path / "mean")
    message = "mean already exists: overwrite it, or choose another output"
    assert_refused(tmp_path, paths, message, FileExistsError)
    average_models(paths[:2], tmp_path / "mean", overwrite=True)
    states = [saved_weights(path) for path in paths[:2]]
    assert_close(saved_weights(tmp_path / "mean"), mean_of(states))
    (tmp_path / "mean" / "notes.txt").write_text("mine")
    message = "contains notes.txt, which is not part of a pipeline, and is not overwritten"
    assert_refused(tmp_path, paths, message, FileExistsError, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    message = "other is not a saved pipeline: .*, and is not overwritten"
    assert_refused(tmp_path, paths, message, FileExistsError, output="other", overwrite=True)


def fill_disk(folder):
    """Average with files that cannot be larger than a part of the model."""
    import resource
    from pathlib import Path

    folder = Path(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        average_models(sorted(folder.glob("seed-*")), folder / "mean", overwrite=True)
    except OSError as error:
        print(type(error).__name__, error.filename)


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_pipeline(paths, tmp_path):
    pytest.importorskip("resource")
    average_models(paths[:2], tmp_path / "mean")
    before = contents(tmp_path)
    assert run_in_new_process(fill_disk, tmp_path) == f"OSError {tmp_path / 'mean'}\n"
    assert contents(tmp_path) == before

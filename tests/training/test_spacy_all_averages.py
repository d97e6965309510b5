"""`--save-all` for spaCy configs: a pipeline with each of the averages of a nesting."""

import json

import pytest
from helpers import require, run_command

require("spacy", "filelock", "matplotlib")

import spacy  # noqa: E402
from pipelines import is_same, weights_of  # noqa: E402
from spacy_trainings import (  # noqa: E402
    StopAt,
    differing,
    files_of,
    make_config,
    results_of,
    train_in_parts,
    write_half_tagged,
    write_ner,
)

from thinc_swa.training.spacy_training import train_spacy  # noqa: E402

NAMES = {"SWA": "swa", "EMA": "ema", "LAWA": "lawa"}
FOLDERS = {"model-best", "model-last"} | {
    f"model-{which}-{name}" for which in ("best", "last") for name in NAMES.values()
}


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "config"
    folder.mkdir()
    return make_config(folder, ["ner"], write_ner, optimizer="SWA, EMA and LAWA")


@pytest.mark.slow
def test_a_pipeline_with_each_of_the_averages_is_saved(config, tmp_path):
    output = tmp_path / "output"
    trainer = train_spacy(config, output=output, save_all=True)
    assert {path.name for path in output.glob("model-*")} == FOLDERS
    evaluations = trainer.state.evaluations
    examples = list(trainer._dev_corpus(trainer.model))
    for name, suffix in NAMES.items():
        scores = [e.all_averages[name] for e in evaluations if name in e.all_averages]
        # They start after steps 12, 1 and 4, and are evaluated after steps 1, 11, 21 and 31.
        assert len(scores) == {"SWA": 2, "EMA": 4, "LAWA": 3}[name]
        for folder, score in (("last", scores[-1]), ("best", max(scores))):
            path = output / f"model-{folder}-{suffix}"
            nlp = spacy.load(path)
            assert nlp.evaluate(examples)["ents_f"] == pytest.approx(score)
            performance = json.loads((path / "meta.json").read_text())["performance"]
            assert performance["ents_f"] == pytest.approx(score)
            assert {"ner_loss", "tok2vec_loss"} < performance.keys()
        with trainer.use_averages(name):
            saved = weights_of(spacy.load(output / f"model-last-{suffix}"))
            assert is_same(saved, weights_of(trainer.model))
    # Those of the outermost optimizer are the ones that `spacy train` saves.
    assert differing(output / "model-last", output / "model-last-swa") == []
    assert differing(output / "model-last", output / "model-last-ema") != []
    assert differing(output / "model-last-lawa", output / "model-last-ema") != []


@pytest.mark.slow
def test_saving_all_changes_nothing_else_and_is_resumable(tmp_path):
    folder = tmp_path / "config"
    folder.mkdir()
    config = make_config(
        folder,
        ["ner", "tagger"],
        write_half_tagged,
        optimizer="SWA, EMA and LAWA",
        training__dropout=0.3,
        training__max_steps=35,
    )
    train_in_parts(config, tmp_path / "plain")
    train_in_parts(config, tmp_path / "whole", save_all=True)
    plain, whole = files_of(tmp_path / "plain"), files_of(tmp_path / "whole")
    for name in plain:
        if name.startswith("model-"):
            assert plain[name] == whole[name], name
    for steps in ((15,), (7, 22, 33)):
        output = tmp_path / f"resumed-{len(steps)}"
        train_in_parts(config, output, *steps, save_all=True)
        files, records = results_of(output)
        assert differing(files, results_of(tmp_path / "whole")[0]) == []
        assert records == results_of(tmp_path / "whole")[1]
        assert {path.name for path in output.glob("model-*")} == FOLDERS


@pytest.mark.slow
def test_folders_of_averages_belong_to_their_training(config, tmp_path):
    output = tmp_path / "output"
    train_spacy(config, output=output, save_all=True, callbacks=[StopAt(12)])
    # What a crash leaves in the middle of an atomic replacement.
    left = output / f".model-last-swa.{'0' * 32}.tmp"
    left.mkdir()
    train_spacy(config, output=output, save_all=True, resume=True)
    assert not left.exists()
    (output / "model-best-mine").mkdir()
    train_spacy(config, output=output, overwrite=True)
    assert {path.name for path in output.glob("model-*")} == {
        "model-best",
        "model-best-mine",
        "model-last",
    }
    (output / "model-last-ema").mkdir()
    (output / "model-last-ema" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="contains model-last-ema, which thinc-swa"):
        train_spacy(config, output=output, save_all=True, overwrite=True)
    assert (output / "model-last-ema" / "mine").exists()


@pytest.mark.slow
def test_the_command_saves_all(config, tmp_path):
    require("typer", "rich")
    path = tmp_path / "config" / "config.cfg"
    result = run_command(tmp_path, "train", path, "-o", "output", "--save-all")
    assert result.returncode == 0, result.stderr
    assert {found.name for found in (tmp_path / "output").glob("model-*")} == FOLDERS

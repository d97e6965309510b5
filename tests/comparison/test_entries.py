"""Entries of a comparison, and the seeds and folders of their runs."""

import pytest
from thinc.api import Config
from tiny import ADAM, write_config

from thinc_swa.comparison.entries import Entry, read_entries
from thinc_swa.comparison.runs import make_runs
from thinc_swa.training.configs import is_spacy_config, read_config, with_seed

EMA_BLOCK = """
[training.optimizer]
@optimizers = "EMA.v1"
half_life = ${training.batch_size}

[training.optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.01
"""


def test_entries_are_named_after_their_files(tmp_path, adam, swa):
    entries = read_entries([adam, swa], [], {"training.max_steps": 7})
    assert [entry.name for entry in entries] == ["adam", "swa"]
    assert [entry.config["training"]["max_steps"] for entry in entries] == [7, 7]
    (tmp_path / "other").mkdir()
    same_name = write_config(tmp_path / "other", "adam", ADAM)
    names = [entry.name for entry in read_entries([adam, same_name], [], {})]
    assert names == [f"{tmp_path.name}-adam", "other-adam"]


def test_names_have_as_many_folders_as_make_them_unique(tmp_path):
    paths = []
    for folder in ("a/x", "b/x", "b/y"):
        (tmp_path / folder).mkdir(parents=True)
        paths.append(write_config(tmp_path / folder, "adam", ADAM))
    names = [entry.name for entry in read_entries(paths, [], {})]
    assert names == ["a-x-adam", "b-x-adam", "y-adam"]


def test_one_config_is_combined_with_optimizers_of_other_files(tmp_path, adam, swa):
    block = tmp_path / "ema.cfg"
    block.write_text(EMA_BLOCK)
    entries = read_entries([adam], [swa, block], {})
    assert [entry.name for entry in entries] == ["adam", "swa", "ema"]
    optimizers = [entry.config.interpolate()["optimizer"] for entry in entries]
    names = [optimizer["@optimizers"] for optimizer in optimizers]
    assert names == ["Adam.v1", "SWA.v1", "EMA.v1"]
    # Variables refer to the config.
    assert optimizers[2]["half_life"] == 8
    # The other sections are those of the config.
    others = [{**entry.config, "optimizer": None} for entry in entries]
    assert others[0] == others[1] == others[2]


def test_invalid_entries_are_errors(tmp_path, adam, swa):
    with pytest.raises(FileNotFoundError):
        read_entries([tmp_path / "none.cfg"], [], {})
    with pytest.raises(ValueError, match="need exactly one config, but got 2"):
        read_entries([adam, swa], [adam], {})
    empty = tmp_path / "empty.cfg"
    empty.write_text("[training]\nseed = 0\n")
    with pytest.raises(ValueError, match=r"has no section \[optimizer\]"):
        read_entries([empty], [], {})
    with pytest.raises(ValueError, match=r"has no section \[optimizer\] or \[training.opt"):
        read_entries([adam], [empty], {})
    with pytest.raises(ValueError, match=f"two have the name {tmp_path.name}-adam"):
        read_entries([adam, adam], [], {})
    loss = write_config(tmp_path, "loss", ADAM, score="loss")
    with pytest.raises(ValueError, match="different scores cannot be compared"):
        read_entries([adam, loss], [], {})
    with pytest.raises(ValueError, match="optimizer.learn_rate would change only the"):
        read_entries([adam], [swa], {"optimizer.learn_rate": 0.1})
    torn = tmp_path / "torn.cfg"
    torn.write_text("[optimizer]\n@optimizers = 'Adam.v1'\n\n[initialize.after_init]\n")
    with pytest.raises(ValueError, match="torn.cfg: "):
        read_entries([adam], [torn], {})


def test_folders_of_runs_are_in_the_output_folder_for_all_names(tmp_path, monkeypatch):
    """Regression: `compare /a.cfg x/a.cfg` wrote to /-a, and "...cfg" to the parent folder."""
    (tmp_path / "x").mkdir()
    names = ("a", "..", ".hidden", "Adam", "adam", "a b", "ä")
    paths = [write_config(tmp_path, name, ADAM) for name in names]
    paths.append(write_config(tmp_path / "x", "a", ADAM))
    entries = [*read_entries(paths, [], {}), Entry("/-a", read_config(paths[0], {}))]
    output = tmp_path / "deep" / "output"
    runs = make_runs(entries, n_seeds=1, output=output)
    folders = [run.folder.relative_to(output / "runs") for run in runs]
    assert all(len(folder.parts) == 2 and folder.parts[1] == "seed-1" for folder in folders)
    assert all(folder.parts[0].isascii() and folder.parts[0][0] != "." for folder in folders)
    assert len({str(folder).casefold() for folder in folders}) == len(runs) == 9


def test_variables_that_refer_to_the_seed_follow_it():
    text = "[training]\nseed = 5\n\n[dataset]\nseed = ${training.seed}\n"
    config = with_seed(Config().from_str(text, interpolate=False), 2)
    assert config == {"training": {"seed": 7}, "dataset": {"seed": 7}}


def test_seeds_count_from_the_seed_of_the_config(adam):
    config = Config().from_disk(adam)
    assert [with_seed(config, i)["training"]["seed"] for i in range(3)] == [1, 2, 3]
    spacy = Config({"nlp": {}, "system": {"seed": 5}, "training": {"seed": "${system.seed}"}})
    assert is_spacy_config(spacy)
    seeded = with_seed(Config().from_str(spacy.to_str(), interpolate=False), 2)
    assert (seeded["system"]["seed"], seeded["training"]["seed"]) == (7, 7)

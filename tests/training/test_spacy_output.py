"""What trainings of spaCy configs show, save and refuse."""

import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import require

require("spacy", "filelock", "typer", "rich", "matplotlib")

import numpy  # noqa: E402
import spacy  # noqa: E402
from chains import run_chain, write_spacy_configs  # noqa: E402
from pipelines import weights_of  # noqa: E402
from spacy.tokens import DocBin  # noqa: E402
from spacy.util import registry  # noqa: E402
from spacy_trainings import (  # noqa: E402
    SWA,
    StopAt,
    differing,
    files_of,
    make_config,
    results_of,
    train_with_spacy,
    write_half_tagged,
    write_ner,
)

from thinc_swa.errors import TrainingWarning  # noqa: E402
from thinc_swa.training.callbacks import Callback  # noqa: E402
from thinc_swa.training.logs import find_disorder, read_log  # noqa: E402
from thinc_swa.training.spacy_callbacks import SpacyTable  # noqa: E402
from thinc_swa.training.spacy_data import TrainingBatches, _count_words  # noqa: E402
from thinc_swa.training.spacy_trainer import SpacyTrainer  # noqa: E402
from thinc_swa.training.spacy_training import train_spacy  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config and its corpus."""
    folder = tmp_path_factory.mktemp("config")
    make_config(folder, ["ner", "tagger"], write_half_tagged, training__max_steps=20)
    return folder


@pytest.fixture
def config(folder):
    return spacy.util.load_config(folder / "config.cfg", interpolate=False)


@pytest.fixture(scope="module")
def complete(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("complete") / "output"
    config = spacy.util.load_config(folder / "config.cfg", interpolate=False)
    train_spacy(config, output=output)
    return output


@pytest.fixture
def output(complete, tmp_path):
    """Output folder of a complete training."""
    return shutil.copytree(complete, tmp_path / "output")


# The table, the log, and the files


def test_table_shows_losses_and_both_scores(config):
    table = io.StringIO()
    trainer = train_spacy(config, callbacks=[SpacyTable(table)])
    header, *rows = table.getvalue().splitlines()
    titles = "step epoch loss tok2vec loss ner loss tagger learn rate words/s snapshots"
    assert header.split()[: len(titles.split())] == titles.split()
    assert header.split()[-2:] == ["raw", "averages"]
    # spaCy evaluates after its steps 0, 10, 20, counted from 0.
    assert [row.split()[0] for row in rows] == ["1", "11", "21"]
    last = trainer.state.evaluations[-1]
    values = rows[-1].removesuffix("  best").split()
    assert values[2:5] == [f"{last.losses[name]:.2f}" for name in ("tok2vec", "ner", "tagger")]
    assert values[-2:] == [f"{100 * last.raw:.2f}", f"{100 * last.averages:.2f}"]
    assert values[7] == str(last.n_averaged) == "4"


def test_log_has_steps_evaluations_and_checkpoints(output):
    records = list(read_log(output / "log.jsonl"))
    assert find_disorder(records) is None
    assert [record["step"] for record in records if record["type"] == "step"] == [*range(1, 22)]
    evaluations = [record for record in records if record["type"] == "evaluation"]
    assert [record["step"] for record in evaluations] == [1, 11, 21]
    assert evaluations[0]["averages"] is None and evaluations[-1]["averages"] is not None
    assert evaluations[-1]["losses"].keys() == {"tok2vec", "ner", "tagger"}
    assert evaluations[-1]["other_scores"].keys() >= {"ents_f", "tag_acc"}
    assert [record["step"] for record in records if record["type"] == "checkpoint"] == [
        1,
        11,
        21,
    ]


def test_files(output):
    names = {path.name for path in output.iterdir()}
    assert names == {
        ".thinc-swa.lock",
        "config.cfg",
        "learning-curve.png",
        "learning-curve.svg",
        "log.jsonl",
        "model-best",
        "model-last",
        "step-00000011",
        "step-00000021",
    }
    assert (output / "learning-curve.png").read_bytes().startswith(b"\x89PNG")


def test_raw_score_is_that_of_the_raw_weights(config, output):
    trainer = SpacyTrainer(config)
    trainer.load_model(output / "step-00000021" / "model")
    examples = list(trainer._dev_corpus(trainer.model))
    scores = trainer.model.evaluate(examples)
    evaluation = json.loads((output / "step-00000021" / "training.json").read_text())
    raw = evaluation["state"]["evaluations"][-1]["raw"]
    assert raw == pytest.approx(0.5 * scores["ents_f"] + 0.5 * scores["tag_acc"], abs=1e-12)
    last = spacy.load(output / "model-last")
    assert any(
        not numpy.array_equal(weights, other)
        for weights, other in zip(
            weights_of(trainer.model).values(), weights_of(last).values(), strict=True
        )
    )


def test_no_gradient_is_pending_at_a_checkpoint(config):
    class Check(Callback):
        n_checked = 0

        def on_evaluate(self, trainer, evaluation):
            for _, component in trainer.model.pipeline:
                for node in component.model.walk():
                    for name in node.param_names:
                        if node.has_grad(name):
                            assert not node.get_grad(name).any()
                            self.n_checked += 1

    check = Check()
    train_spacy(config, callbacks=[check])
    assert check.n_checked > 0


def test_plateau_gets_the_raw_scores(config):
    config["training"]["optimizer"] = {**SWA, "start_step": "plateau", "plateau_evals": 2}
    config["training"].update(max_steps=200, eval_frequency=5)
    trainer = train_spacy(config)
    assert trainer.optimizer.n_averaged > 0


def make_printer():
    """Logger that prints the steps of evaluations."""

    def set_up(nlp, stdout, stderr):
        def log_step(info):
            if info is not None:
                stdout.write(f"step {info['step']}\n")

        return log_step, lambda: None

    return set_up


def make_logger(name, path):
    console = {"@loggers": name, "progress_bar": None, "output_file": str(path)}
    if name != "spacy.ChainLogger.v1":
        return console
    require("spacy_loggers")
    registry.loggers("tests.printer.v1", func=make_printer)
    return {
        "@loggers": name,
        "logger1": {**console, "@loggers": "spacy.ConsoleLogger.v2", "progress_bar": False},
        "logger2": {"@loggers": "tests.printer.v1"},
    }


LOGGERS = ["spacy.ConsoleLogger.v3", "thinc_swa.ConsoleLogger.v1", "spacy.ChainLogger.v1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", LOGGERS)
def test_loggers_of_resumed_trainings_have_all_records(name, config, tmp_path, capsys):
    contents = []
    for i, steps in enumerate([[], [13, 17]]):
        path = tmp_path / f"{i}.jsonl"
        config["training"]["logger"] = make_logger(name, path)
        for step in (*steps, None):
            callbacks = [] if step is None else [StopAt(step)]
            capsys.readouterr()
            train_spacy(
                config,
                output=tmp_path / str(i),
                callbacks=callbacks,
                resume=(tmp_path / str(i)).exists(),
            )
        contents.append([json.loads(line) for line in path.read_text().splitlines()])
        assert [record["step"] for record in contents[-1]] == [0, 10, 20]
        # Tables of console loggers are not printed, not even in a chain; other loggers print.
        lines = ["step 0", "step 10", "step 20"] if name == "spacy.ChainLogger.v1" else []
        assert capsys.readouterr().out.splitlines() == lines
    for record in contents[0] + contents[1]:
        record["scores"].pop("speed", None)
    assert contents[0] == contents[1]
    # A file of someone else is kept.
    with pytest.warns(TrainingWarning, match="does not write to .*, which exists already"):
        train_spacy(config, output=tmp_path / "other")
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 10, 20]


def test_the_table_of_a_console_logger_in_a_chain_is_not_printed(config, capsys):
    require("spacy_loggers")
    config["training"]["max_steps"] = 1
    config["training"]["logger"] = {
        "@loggers": "spacy.ChainLogger.v1",
        "logger3": {"@loggers": "spacy.ConsoleLogger.v1", "progress_bar": True},
    }
    train_spacy(config, callbacks=[SpacyTable()])
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["step", "1"]
    assert err == ""


def test_raw_evaluation_leaves_strings_and_random_states(tmp_path, monkeypatch):
    """The additional evaluation predicts new lemmas and draws random numbers."""
    config = make_config(tmp_path, ["ner"], write_ner, training__max_steps=20)
    expected = train_with_spacy(config, tmp_path / "spacy")
    evaluate = SpacyTrainer._score
    calls = []

    def score(trainer, corpus):
        in_averages = len(calls) % 2 == 0 and bool(trainer.optimizer.averages)
        calls.append(in_averages)
        result = evaluate(trainer, corpus)
        if trainer.optimizer.averages and not in_averages:
            random.random()
            numpy.random.random()
            trainer.model.vocab.strings.add(f"a new lemma {len(calls)}")
        return result

    monkeypatch.setattr(SpacyTrainer, "_score", score)
    config["training"]["logger"] = {"@loggers": "tests.recorder.v1"}
    assert expected
    train_spacy(config, output=tmp_path / "output")
    assert len(calls) > 3
    for name in ("model-best", "model-last"):
        assert differing(tmp_path / "spacy" / name, tmp_path / "output" / name) == []


# Data


def test_position_counts_the_words_of_pythons_generator():
    for n_words in (0, 1, 2, 600, 623, 624, 625, 1500):
        for offset in (0, 1, 300, 623, 624):
            random.seed(1)
            for _ in range(offset):
                random.getrandbits(32)
            before = random.getstate()
            for _ in range(n_words):
                random.getrandbits(32)
            assert _count_words(before, random.getstate()) == n_words
    random.seed(2)
    assert _count_words(before, random.getstate()) is None


class FakeExample:
    def __init__(self, length):
        self.length = length
        self.reference = self
        self.text = str(length)

    def __len__(self):
        return self.length


def test_a_reader_with_a_state_of_its_own_is_an_error_when_resuming():
    state = iter(range(1, 100))

    def batches():
        def read(nlp):
            return (FakeExample(next(state)) for _ in range(5))

        return TrainingBatches(None, read, lambda examples: ([e] for e in examples), -1)

    first = batches()
    for _ in range(3):
        next(first)
    second = batches()
    second.restore(first.position)
    with pytest.raises(ValueError, match="gives other batches than when the checkpoint"):
        next(second)


def test_epochs_without_batches_are_an_error():
    batches = TrainingBatches(None, lambda nlp: iter(()), lambda examples: examples, -1)
    with pytest.raises(ValueError, match="no batch in epoch 0"):
        next(batches)


# Errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("-o done", "done already contains a training"),
        ("-o done --resume --training.dropout 0.3", "training.dropout was 0.1 and is 0.3 now"),
        ("-o done --resume --code other.py", "code was absent"),
        ("-o done --resume --paths.dev other.spacy", "has another config"),
        ("-o foreign", "contains model-best, which thinc-swa has not written"),
        ("-o foreign --overwrite", "contains model-best, which thinc-swa has not written"),
        ("-o done --overwrite --paths.train empty.spacy", "The training corpus is empty"),
        ("-o done --overwrite --paths.dev empty.spacy", "The development corpus is empty"),
        ("-o done --overwrite --paths.dev none.spacy", "No such file or directory: none.spacy"),
        ("-o done --overwrite --paths.train plain.spacy", "Labels for component 'tagger' not"),
        ("-o done --overwrite --training.logger.@loggers none.v1", "Could not find function"),
        ("-o done --overwrite --training.dropout much", "dropout"),
    ],
)
def test_errors_are_one_line_and_nothing_is_lost(arguments, message, folder, output, run):
    here = output.parent
    output.rename(here / "done")
    (here / "foreign" / "model-best").mkdir(parents=True)
    (here / "foreign" / "model-best" / "meta.json").write_text("{}")
    (here / "other.py").write_text("")
    nlp = spacy.blank("en")
    DocBin().to_disk(here / "empty.spacy")
    DocBin(docs=[nlp.make_doc("I like jeans .")]).to_disk(here / "plain.spacy")
    DocBin(docs=[nlp.make_doc("I like socks .")]).to_disk(here / "other.spacy")
    before = without_locks(files_of(here))
    result = run(here, "train", folder / "config.cfg", *arguments.split())
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert without_locks(files_of(here)) == before


def without_locks(files):
    return {name: content for name, content in files.items() if "lock" not in name}


def test_changed_data_and_another_spacy_are_errors(folder, config, output, monkeypatch):
    monkeypatch.setattr(
        "thinc_swa.training.spacy_trainer.describe_spacy", lambda config: {"spaCy": "4.0"}
    )
    with pytest.raises(ValueError, match="spaCy was .* and is 4.0 now"):
        train_spacy(config, output=output, resume=True)
    monkeypatch.undo()
    path = folder / "dev.spacy"
    content = path.read_bytes()
    try:
        DocBin().from_bytes(content)
        nlp = spacy.blank("en")
        docs = list(DocBin().from_bytes(content).get_docs(nlp.vocab))
        DocBin(docs=docs[1:]).to_disk(path)
        with pytest.raises(ValueError, match="the content of paths.dev has changed"):
            train_spacy(config, output=output, resume=True)
    finally:
        path.write_bytes(content)


def test_missing_annotations_for_ner_are_a_warning(tmp_path):
    nlp = spacy.blank("en")
    config = make_config(tmp_path, ["ner"], write_ner, training__max_steps=2)
    DocBin(docs=[nlp.make_doc("I like jeans .")]).to_disk(tmp_path / "train.spacy")
    with pytest.warns(TrainingWarning, match="no annotations for 'ner'"):
        train_spacy(config)


# Processes


def start(folder, output, *arguments, command=(sys.executable,)):
    command = [*command, "-m", "thinc_swa", "train", folder / "config.cfg", "-o", output]
    return subprocess.Popen(
        [str(part) for part in (*command, *arguments)],
        cwd=output.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_ctrl_c_can_be_resumed(folder, tmp_path, interruptible):
    more = ("--training.max_steps", "300", "--training.eval_frequency", "50")
    whole = start(folder, tmp_path / "whole", *more)
    assert whole.communicate(timeout=300) and whole.returncode == 0
    process = start(folder, tmp_path / "output", *more)
    while not (tmp_path / "output" / "step-00000051").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "use --resume to continue" in stdout
    process = start(folder, tmp_path / "output", "--resume", *more)
    assert process.communicate(timeout=300) and process.returncode == 0
    files, records = results_of(tmp_path / "output")
    assert differing(files, results_of(tmp_path / "whole")[0]) == []
    assert records == results_of(tmp_path / "whole")[1]


# Limits the size of all files. Python ignores the signal by itself. Not a `preexec_fn`, which
# runs the hooks at forks of all libraries in this process: JAX's warns.
LIMITED = """
import os, resource, sys
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [20_000, 60_000, 300_000])
def test_a_full_disk_is_one_error_and_the_training_can_be_resumed(size, folder, tmp_path):
    limited = (sys.executable, "-c", LIMITED, size)
    process = start(folder, tmp_path / "output", command=limited)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stderr.startswith("Error: ") and "File too large" in stderr
    assert stderr.count("\n") == 1
    left = {path.name for path in (tmp_path / "output").glob(".*.tmp")}
    assert left == set()
    process = start(folder, tmp_path / "output", "--resume")
    assert process.communicate(timeout=120) and process.returncode == 0
    process = start(folder, tmp_path / "whole")
    assert process.communicate(timeout=120) and process.returncode == 0
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


# Kills the process at a call of a function whose number is in a file of that name.
KILLING = """
import os, signal
from pathlib import Path
from thinc_swa.training import checkpoints, spacy_trainer

def killing(function, name):
    def call(*arguments, **options):
        path = Path(name)
        if path.exists():
            n_calls = int(path.read_text())
            path.write_text(str(n_calls - 1))
            if n_calls == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

spacy_trainer.SpacyTrainer._score = killing(spacy_trainer.SpacyTrainer._score, "score")
checkpoints.save_optimizer = killing(checkpoints.save_optimizer, "save_optimizer")
checkpoints.delete_checkpoint = killing(checkpoints.delete_checkpoint, "delete_checkpoint")
os.rename = killing(os.rename, "rename")
"""


@pytest.mark.slow
def test_kills_inside_evaluations_and_writes_do_not_change_the_results(folder, tmp_path):
    (tmp_path / "code.py").write_text(KILLING)
    process = start(folder, tmp_path / "whole", "--code", "code.py")
    assert process.communicate(timeout=120) and process.returncode == 0
    whole = results_of(tmp_path / "whole")
    # In the evaluations of averages and of raw weights; between the renames of folders; before
    # the state of the optimizer is saved; before an earlier checkpoint is deleted.
    kills = [("score", 2), ("score", 3), ("score", 1), ("save_optimizer", 2)]
    kills += [("rename", number) for number in (1, 2, 3, 4, 5)] + [("delete_checkpoint", 1)]
    for name, number in kills:
        (tmp_path / name).write_text(str(number))
        process = start(folder, tmp_path / "output", "--resume", "--code", "code.py")
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, (name, number)
        (tmp_path / name).unlink()
        process = start(folder, tmp_path / "output", "--resume", "--code", "code.py")
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        assert results_of(tmp_path / "output") == whole, (name, number)
        assert not list((tmp_path / "output").glob(".*.tmp"))
        shutil.rmtree(tmp_path / "output")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_kills_at_random_moments_do_not_change_the_results(number, tmp_path):
    config = write_spacy_configs(tmp_path)[number]
    moments = run_chain(tmp_path, config, 3, random.Random(number))
    same = moments.pop("compared with an uninterrupted training: the same")
    assert same >= 1 and sum(moments.values()) == 3

"""Callbacks: calls, errors, Ctrl-C, and output."""

import io
import signal

import pytest
from helpers import require
from thinc.api import SGD
from tiny import (
    assert_same,
    make_trainer,
    weights_of,
)

from thinc_swa import SWA
from thinc_swa.errors import CallbackError
from thinc_swa.training.callbacks import (
    Callback,
    ProgressBar,
    SaveModels,
    ScoreTable,
    StopOnInterrupt,
)


class Recorder(Callback):
    def __init__(self, fails_in=None):
        self.events = []
        self.fails_in = fails_in

    def on_start(self, trainer):
        self._hear("on_start", trainer)

    def on_step(self, trainer):
        self._hear("on_step", trainer)

    def on_evaluate(self, trainer, evaluation):
        assert evaluation is trainer.state.evaluations[-1]
        self._hear("on_evaluate", trainer)

    def on_end(self, trainer):
        self._hear("on_end", trainer)

    def _hear(self, event, trainer):
        self.events.append((event, trainer.state.step))
        if self.fails_in == (event, trainer.state.step):
            raise KeyError("my key")


def test_callbacks_are_called_in_order():
    recorder = Recorder()
    make_trainer(callbacks=[recorder], max_steps=3, eval_frequency=2).run()
    assert recorder.events == [
        ("on_start", 0),
        ("on_step", 1),
        ("on_step", 2),
        ("on_evaluate", 2),
        ("on_step", 3),
        ("on_evaluate", 3),
        ("on_end", 3),
    ]


def test_a_callback_stops_a_training():
    class Stop(Callback):
        def on_step(self, trainer):
            if trainer.state.step == 4:
                trainer.stop("enough")

    trainer = make_trainer(callbacks=[Stop()])
    trainer.run()
    assert (trainer.state.step, trainer.state.stop_reason) == (4, "enough")


@pytest.mark.parametrize(
    "place", [("on_start", 0), ("on_step", 4), ("on_evaluate", 10), ("on_end", 20)]
)
def test_a_failing_callback_is_named_and_all_are_called_at_the_end(place):
    failing, other = Recorder(fails_in=place), Recorder()
    trainer = make_trainer(callbacks=[failing, other])
    event, step = place
    message = rf"Recorder\.{event} failed after step {step}: KeyError: 'my key'"
    with pytest.raises(CallbackError, match=message) as caught:
        trainer.run()
    assert isinstance(caught.value.__cause__, KeyError)
    assert failing.events[-1] == other.events[-1] == ("on_end", step)


def test_an_error_at_the_end_does_not_hide_the_first_one():
    failing = [Recorder(fails_in=("on_step", 4)), Recorder(fails_in=("on_end", 4))]
    with pytest.raises(CallbackError, match="on_step failed"):
        make_trainer(callbacks=failing).run()


def test_a_training_that_is_stopped_between_evaluations_saves_its_last_weights(tmp_path):
    class Stop(Callback):
        def on_step(self, trainer):
            if trainer.state.step == 17:
                trainer.stop()

    trainer = make_trainer(callbacks=[SaveModels(tmp_path), Stop()])
    trainer.run()
    model = make_trainer().model.from_bytes((tmp_path / "model-last").read_bytes())
    assert_same(weights_of(model), weights_of(trainer.model))


def test_an_ignored_interrupt_stays_ignored():
    """Shells start background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        make_trainer(callbacks=[Interrupt(), StopOnInterrupt()]).run()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


class Interrupt(Callback):
    def on_step(self, trainer):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_stops_after_the_step(interruptible):
    trainer = make_trainer(callbacks=[StopOnInterrupt(), Interrupt()])
    trainer.run()
    assert (trainer.state.step, trainer.state.stop_reason) == (1, "interrupted")


# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_bar_is_shown_on_terminals_only(monkeypatch):
    require("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    shown, file = Terminal(), io.StringIO()
    optimizer = SWA(SGD(0.1), start_step=2, freq=1)
    make_trainer(optimizer, [ProgressBar(shown), ProgressBar(file)]).run()
    assert file.getvalue() == ""
    assert "20/20" in shown.getvalue() and "100%" in shown.getvalue()
    assert "learn rate 0.1, snapshots 19" in shown.getvalue()


def test_the_progress_bar_shows_the_mean_of_equal_losses():
    require("rich")
    bar = ProgressBar(io.StringIO())
    trainer = make_trainer()
    bar.on_start(trainer)
    for _ in range(3):
        trainer.state.add_step(
            {"loss": 0.25}, epoch=0, learn_rate=0.5, n_averaged=None, seconds=0.0
        )
        bar.on_step(trainer)
    (task,) = bar._progress.tasks
    assert task.description == "loss 0.25, learn rate 0.5" and task.completed == 3
    bar.on_end(trainer)


def test_the_score_table_has_a_row_per_evaluation():
    file = io.StringIO()
    make_trainer(callbacks=[ScoreTable(file)], score="loss").run()
    header, *rows = file.getvalue().splitlines()
    assert header.split() == "step epoch loss learn rate snapshots raw averages".split()
    assert [row.split()[0] for row in rows] == ["10", "20"]
    assert all(row.split()[4] == "-" for row in rows)
    assert rows[0].endswith("best")

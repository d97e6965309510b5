"""Start averaging when the score stops improving, with a custom callback.

    python examples/9_callback.py

`Trainer` is the training loop behind `thinc-swa train`. Its callbacks are called after every
step and every evaluation. This one calls `start_swa()`.

In a config, a registered callback has a section of its own:

    [callbacks]

    [callbacks.start]
    @callbacks = "start_on_plateau.v1"
    patience = 3
"""

from thinc.api import Adam, CategoricalCrossentropy, Relu, Softmax, chain

from thinc_swa import SWA
from thinc_swa.training import Callback, Trainer, registry
from thinc_swa.training.datasets import make_digits


class StartOnPlateau(Callback):
    """Start SWA after a number of evaluations without a better score.

    patience (int): Number of evaluations.
    """

    def __init__(self, patience):
        self.patience = patience

    def on_evaluate(self, trainer, evaluation):
        averages = "-" if evaluation.averages is None else f"{100 * evaluation.averages:.2f}"
        print(
            f"step {evaluation.step:>5}   raw {100 * evaluation.raw:.2f}   averages {averages}"
        )
        recent = trainer.state.evaluations[-self.patience :]
        is_plateau = not any(found.is_best for found in recent)
        if is_plateau and trainer.optimizer.n_averaged == 0:
            trainer.optimizer.start_swa()
            print("start_swa()")


@registry.callbacks("start_on_plateau.v1")
def make_start_on_plateau(patience: int):
    return StartOnPlateau(patience)


if __name__ == "__main__":
    try:
        dataset = make_digits()
    except ImportError as error:
        raise SystemExit(str(error)) from None

    trainer = Trainer(
        chain(Relu(64, dropout=0.2), Relu(64, dropout=0.2), Softmax()),
        SWA(Adam(0.005, use_averages=False), freq=10),
        CategoricalCrossentropy(),
        dataset,
        max_steps=2000,
        eval_frequency=100,
        callbacks=[StartOnPlateau(patience=3)],
    )
    trainer.run()

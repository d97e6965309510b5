"""Start averaging when the score stops rising, with a custom callback.

    python examples/9_callback.py

`Trainer` is the loop behind `thinc-swa train`. Its callbacks are called after every step and
every evaluation. This one calls `start_swa()`.
"""

from thinc.api import Adam, CategoricalCrossentropy, Relu, Softmax, chain

from thinc_swa import SWA
from thinc_swa.training.callbacks import Callback
from thinc_swa.training.datasets import make_digits
from thinc_swa.training.trainer import Trainer


class StartWhenLevel(Callback):
    """Starts SWA after some evaluations without a better score.

    patience (int): The number of evaluations.
    """

    def __init__(self, patience):
        self.patience = patience

    def on_evaluate(self, training, evaluation):
        averages = "-" if evaluation.averages is None else f"{100 * evaluation.averages:.2f}"
        print(
            f"step {evaluation.step:>5}   weights {100 * evaluation.raw:.2f}   "
            f"averages {averages}"
        )
        recent = training.evaluations[-self.patience :]
        is_level = not any(found.is_best for found in recent)
        if is_level and training.optimizer.n_averaged == 0:
            training.optimizer.start_swa()
            print("start_swa()")


try:
    dataset = make_digits()
except ImportError as error:
    raise SystemExit(str(error)) from None

training = Trainer(
    chain(Relu(64, dropout=0.2), Relu(64, dropout=0.2), Softmax()),
    SWA(Adam(0.005, use_averages=False), freq=10),
    CategoricalCrossentropy(),
    dataset,
    max_steps=2000,
    eval_frequency=100,
    callbacks=[StartWhenLevel(patience=3)],
)
training.run()

"""Comparisons of language models, whose layers have a state between batches."""

import pytest
from comparison_runs import compare, results_of
from long_texts import config_of
from tiny import ADAM

from thinc_swa.training import Trainer

EMA = f"""
[optimizer]
@optimizers = "EMA.v1"
half_life = 5
{ADAM.replace("[optimizer]", "[optimizer.optimizer]")}
"""


@pytest.mark.slow
def test_a_shared_training_has_the_results_of_the_trainer(tmp_path):
    optimizers = {"adam": ADAM, "ema": EMA}
    configs = {name: config_of(tmp_path, text) for name, text in optimizers.items()}
    for name, config in configs.items():
        config.to_disk(tmp_path / f"{name}.cfg")
    paths = [tmp_path / f"{name}.cfg" for name in configs]
    found = results_of(compare(tmp_path / "runs", paths, n_seeds=1))
    for name, config in configs.items():
        trainer = Trainer.from_config(config)
        trainer.run()
        (evaluations,) = (value for (run, _), value in found.items() if run == name)
        expected = [evaluation.score for evaluation in trainer.state.evaluations]
        assert [evaluation["score"] for evaluation in evaluations] == pytest.approx(expected)

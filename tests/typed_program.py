"""What a user might write, for mypy: every optimizer of the package passes where Thinc's
`Optimizer` is expected. It is checked with mypy, and it runs."""

from typing import Any

from thinc.api import Adam, Linear, Model, Optimizer
from thinc.types import Floats2d

from thinc_swa import (
    EMA,
    SWA,
    LocalSGD,
    Lookahead,
    OptimizerWrapper,
    ParamGroups,
    apply_averages,
    cosine,
    forget_missing,
    one_cycle,
    one_cycle_momentum,
    parameter_summary,
    phases,
    register_parameter_paths,
    swa_anneal,
    use_averages,
)


def train(model: Model[Floats2d, Floats2d], optimizer: Optimizer, X: Floats2d) -> Floats2d:
    predicted, backprop = model.begin_update(X)
    backprop(predicted)
    model.finish_update(optimizer)
    with use_averages(model, optimizer):
        averaged = model.predict(X)
    apply_averages(model, optimizer)
    return averaged


def main() -> None:
    model: Model[Floats2d, Floats2d] = Linear(2, 3).initialize()
    X: Any = model.ops.alloc2f(4, 3)
    optimizers: list[Optimizer] = [
        OptimizerWrapper(Adam(0.001)),
        SWA(Lookahead(Adam(0.001)), start_step=0.75, total_steps=100, freq=10),
        EMA(Adam(0.001), half_life=10, warmup=True),
        Lookahead(Adam(0.001), freq=5, pullback=0.8, inner_state="reset"),
        SWA(LocalSGD(Adam(0.001), freq=5, outer_learn_rate=0.8, start_step=10), freq=5),
        Adam(one_cycle(0.001, total_steps=100), beta1=one_cycle_momentum(steps=100)),
        Adam(phases((0.5, 0.1), cosine(0.1, steps=50, cycles=2), total_steps=100)),
        Adam(0.001, L2=swa_anneal(0.0, 0.1, start_step=0.5, anneal_steps=9, total_steps=100)),
        ParamGroups(Adam(0.001), groups=[{"name": "biases", "params": ["*/b"], "L2": 0.0}]),
    ]
    paths: list[str] = register_parameter_paths(model)
    for optimizer in optimizers:
        train(model, optimizer, X)
    swa: SWA = SWA(Adam(0.001))
    swa.start_swa()
    n_averaged: int = swa.n_averaged
    print(n_averaged, swa.optimizer, swa.averages)
    shapes: list[tuple[int, ...]] = [row.shape for row in parameter_summary(model, swa)]
    n_forgotten: int = forget_missing(swa, model)
    print(paths, shapes, n_forgotten)


if __name__ == "__main__":
    main()

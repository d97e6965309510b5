"""Optimizers that tests wrap, and wrappers of every kind."""

import thinc.schedules
from thinc.api import Optimizer

from thinc_swa import (
    EMA,
    L2SP,
    LAWA,
    SWA,
    LocalSGD,
    Lookahead,
    OptimizerWrapper,
    ParamGroups,
    ScheduleFree,
)
from thinc_swa.optimizers.base import unwrap
from thinc_swa.schedules.compat import Schedule


def without_momentum(optimizer):
    """The optimizer, whose innermost one has no momentum any more."""
    innermost = unwrap(optimizer)[-1]
    if isinstance(innermost, Optimizer):
        if Schedule is None:
            innermost.schedules.pop("b1", None)
            innermost.b1 = 0.0
        else:
            innermost.b1 = thinc.schedules.constant(0.0)
    return optimizer


OPTIMIZERS = {
    "OptimizerWrapper": OptimizerWrapper,
    "SWA": lambda optimizer: SWA(optimizer, start_step=0, freq=2),
    "EMA": lambda optimizer: EMA(optimizer, decay=0.9),
    "EMA power function": lambda optimizer: EMA(optimizer, sigma_rel=0.2),
    "LAWA": lambda optimizer: LAWA(optimizer, window=2, freq=1),
    "Lookahead": lambda optimizer: Lookahead(optimizer, freq=2),
    "Lookahead reset": lambda optimizer: Lookahead(optimizer, freq=2, inner_state="reset"),
    "Lookahead pullback": lambda optimizer: Lookahead(
        optimizer, freq=2, inner_state="pullback"
    ),
    "LocalSGD": lambda optimizer: LocalSGD(
        optimizer, freq=2, start_step=1, inner_state="pullback"
    ),
    "EMA overwriting": lambda optimizer: EMA(optimizer, decay=0.5, overwrite_freq=3),
    "SWA ending": lambda optimizer: SWA(optimizer, start_step=2, end_step=5),
    "SWA annealing": lambda optimizer: SWA(
        optimizer, start_step=2, learn_rate=0.02, anneal_steps=4
    ),
    "ParamGroups": lambda optimizer: ParamGroups(
        optimizer, groups=[{"name": "biases", "params": ["b"], "lr_scale": 0.5, "L2": 0.1}]
    ),
    "L2SP": lambda optimizer: L2SP(optimizer, alpha=0.1),
    "ScheduleFree": lambda optimizer: ScheduleFree(without_momentum(optimizer)),
}


def can_nest(names):
    """Whether wrappers can be nested: LocalSGD refuses averages around it that take snapshots
    at other steps than its synchronisations.

    names (Sequence[str]): Their names, the innermost first.
    """
    around = names[names.index("LocalSGD") :] if "LocalSGD" in names else []
    return not any(name.startswith(("SWA", "EMA", "LAWA")) for name in around)


class Refusing(Optimizer):
    """Refuses every other update of a parameter."""

    __slots__ = ["calls"]

    def __call__(self, key, weights, gradient, *, lr_scale=1.0):
        self.calls += 1
        if self.calls % 2 == 0:
            raise RuntimeError("no")
        return super().__call__(key, weights, gradient, lr_scale=lr_scale)

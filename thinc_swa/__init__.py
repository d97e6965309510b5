"""Weight averaging for Thinc and spaCy."""

# ruff: noqa: E402

from .startup import exit_on_interrupt

# Before the imports that take long.
exit_on_interrupt()

from .about import __version__
from .ema import EMA
from .groups import ParamGroups, list_parameters
from .lookahead import Lookahead
from .models import apply_averages, update_batch_norm, use_averages
from .paths import name_parameters
from .schedule_plots import plot_schedule
from .schedules import cosine, one_cycle, one_cycle_momentum, phases, swa_anneal
from .state import forget_missing, load_optimizer, save_optimizer
from .swa import SWA
from .wrapper import OptimizerWrapper

__all__ = [
    "EMA",
    "Lookahead",
    "OptimizerWrapper",
    "ParamGroups",
    "SWA",
    "__version__",
    "apply_averages",
    "cosine",
    "forget_missing",
    "list_parameters",
    "load_optimizer",
    "name_parameters",
    "one_cycle",
    "one_cycle_momentum",
    "phases",
    "plot_schedule",
    "save_optimizer",
    "swa_anneal",
    "update_batch_norm",
    "use_averages",
]

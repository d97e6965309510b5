"""Weight averaging for Thinc and spaCy."""

# ruff: noqa: E402

from .startup import exit_on_interrupt

# Before the imports that take long.
exit_on_interrupt()

from .about import __version__
from .models.averages import apply_averages, use_averages
from .models.batch_norm import update_batch_norm
from .models.parameter_paths import register_parameter_paths
from .models.saved_models import average_models, greedy_soup, interpolate_models
from .optimizers.all_averages import all_averages
from .optimizers.base import OptimizerWrapper
from .optimizers.ema import EMA
from .optimizers.l2sp import L2SP
from .optimizers.lawa import LAWA
from .optimizers.local_sgd import LocalSGD
from .optimizers.lookahead import Lookahead
from .optimizers.schedule_free import ScheduleFree
from .optimizers.swa import SWA
from .param_groups.optimizer import ParamGroups
from .param_groups.summary import parameter_summary
from .schedules.cosine import cosine
from .schedules.one_cycle import one_cycle, one_cycle_momentum
from .schedules.phases import phases
from .schedules.plots import plot_schedule
from .schedules.swa_anneal import swa_anneal
from .serialization.average_snapshots import save_averages
from .serialization.optimizer_state import load_optimizer, save_optimizer
from .serialization.reconstruction import reconstruct_average
from .serialization.removed_parameters import forget_missing

__all__ = [
    "EMA",
    "L2SP",
    "LAWA",
    "LocalSGD",
    "Lookahead",
    "OptimizerWrapper",
    "ParamGroups",
    "SWA",
    "ScheduleFree",
    "__version__",
    "all_averages",
    "apply_averages",
    "average_models",
    "cosine",
    "forget_missing",
    "greedy_soup",
    "interpolate_models",
    "parameter_summary",
    "load_optimizer",
    "register_parameter_paths",
    "one_cycle",
    "one_cycle_momentum",
    "phases",
    "plot_schedule",
    "reconstruct_average",
    "save_averages",
    "save_optimizer",
    "swa_anneal",
    "update_batch_norm",
    "use_averages",
]

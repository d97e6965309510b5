"""Weight averaging for Thinc and spaCy."""

from .about import __version__
from .ema import EMA
from .groups import ParamGroups, list_parameters
from .lookahead import Lookahead
from .models import apply_averages, update_batch_norm, use_averages
from .paths import name_parameters
from .state import load_optimizer, save_optimizer
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
    "list_parameters",
    "load_optimizer",
    "name_parameters",
    "save_optimizer",
    "update_batch_norm",
    "use_averages",
]

"""Weight averaging for Thinc and spaCy."""

from .about import __version__
from .ema import EMA
from .lookahead import Lookahead
from .swa import SWA
from .wrapper import OptimizerWrapper

__all__ = ["EMA", "Lookahead", "OptimizerWrapper", "SWA", "__version__"]

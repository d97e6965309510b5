"""Registry of the functions that training configs can name."""

import catalogue
from thinc.api import registry as thinc_registry
from thinc.types import Decorator


# Thinc has no registry of callbacks, and spaCy's `callbacks` have another signature. A subclass
# changes neither, and resolves everything that is registered with Thinc.
class registry(thinc_registry):
    """Thinc's registry, and `callbacks`: functions that return a `Callback`, for the sections
    `[callbacks.NAME]` of training configs.

    Register functions with `@registry.callbacks("name.v1")` in a file for `--code`, or by the
    entry points `thinc_swa_callbacks` of a package.
    """

    callbacks: Decorator = catalogue.create("thinc_swa", "callbacks", entry_points=True)

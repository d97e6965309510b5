"""The pages on the Python API: one for each subpackage, with its public names."""

import sys
from importlib import import_module

# Subpackages whose names are public beside those of `thinc_swa` itself.
PUBLIC_SUBPACKAGES = ("thinc_swa.distributed", "thinc_swa.training")
TITLES = {
    "distributed": "Workers",
    "models": "Models",
    "optimizers": "Optimizers",
    "param_groups": "Parameter groups",
    "schedules": "Schedules",
    "serialization": "Optimizer state",
    "training": "Training",
}


def api_pages() -> dict[str, str]:
    """RETURNS (dict[str, str]): The pages in Markdown, by the name of the subpackage. Each has
    the public names for mkdocstrings to fill in.
    """
    pages: dict[str, list[str]] = {}
    for module in ("thinc_swa", *PUBLIC_SUBPACKAGES):
        for name in import_module(module).__all__:
            found = getattr(sys.modules[module], name)
            if name.startswith("_"):
                continue
            subpackage = found.__module__.split(".")[1]
            if module in PUBLIC_SUBPACKAGES:
                subpackage = module.split(".")[1]
            # By the public name, so that links to it outlive a move to another module.
            pages.setdefault(subpackage, []).append(f"{module}.{name}")
    return {
        subpackage: _page(subpackage, sorted(identifiers, key=_order))
        for subpackage, identifiers in sorted(pages.items())
    }


def _order(identifier: str) -> tuple[bool, bool, str]:
    """The base class first, then classes, then functions."""
    name = identifier.rpartition(".")[2]
    return name != "OptimizerWrapper", name[0].islower(), name


def _page(subpackage: str, identifiers: list[str]) -> str:
    title = TITLES.get(subpackage, subpackage.replace("_", " ").capitalize())
    module = f"thinc_swa.{subpackage}"
    module = module if module in PUBLIC_SUBPACKAGES else "thinc_swa"
    parts = [f"# {title}\n\nImported from `{module}`.\n"]
    parts += [f"::: {identifier}\n" for identifier in identifiers]
    return "\n".join(parts)

"""Entries of a comparison that are averages of the same training.

Averages that never change the trajectory of the weights can be nested in each other, so such
entries are trained once: see `train_shared`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from thinc.api import Config

from ..training.configs import SECTION, is_spacy_config, optimizer_section

# Names of the wrappers in configs, each with the settings with which it changes the trajectory.
PASSIVE: dict[str, tuple[str, ...]] = {
    "SWA.v1": ("learn_rate", "end_step"),
    "EMA.v1": ("overwrite_freq",),
    "LAWA.v1": (),
}
# Thinc's optimizers. By default they keep averages of their own, `use_averages`.
THINC = ("Adam.v1", "RAdam.v1", "SGD.v1")
# Wrappers that use these until they start. The others drop them at once.
KEEPING = ("SWA.v1",)
# Config name of `EntryBoundary`, in processes of runs only.
BOUNDARY = "thinc_swa.entry_boundary.v1"


@dataclass(frozen=True)
class Nesting:
    """Optimizer of an entry, taken apart.

    wrappers (tuple[dict[str, Any], ...]): Sections of the outermost wrappers that never change
        the trajectory, without the sections inside them.
    optimizer (Any): Section of the optimizer inside them, without Thinc's `use_averages`.
    use_averages (bool | None): This setting, if the optimizer is one of Thinc's own.
    """

    wrappers: tuple[dict[str, Any], ...]
    optimizer: Any
    use_averages: bool | None = None

    @property
    def uses_averages(self) -> bool:
        """Whether averages of Thinc's own belong to the entry, at least at first: the wrappers
        that never use them drop them at once."""
        return self.use_averages is not False and all(
            _name(wrapper) in KEEPING for wrapper in self.wrappers
        )

    @property
    def is_raw(self) -> bool:
        """Whether the entry adds no averages to those that all entries have."""
        return not (self.wrappers or self.use_averages)


def take_apart(section: Any) -> Nesting:
    """Take the outermost wrappers that never change the trajectory off an optimizer.

    section (Any): The section of the optimizer, interpolated.
    """
    wrappers = []
    while _is_passive(section):
        wrappers.append({name: value for name, value in section.items() if name != "optimizer"})
        section = section["optimizer"]
    if isinstance(section, dict) and section.get("@optimizers") in THINC:
        use_averages = section.get("use_averages", True)
        if isinstance(use_averages, bool):
            rest = {name: value for name, value in section.items() if name != "use_averages"}
            return Nesting(tuple(wrappers), rest, use_averages)
    return Nesting(tuple(wrappers), section)


def _is_passive(section: Any) -> bool:
    if not isinstance(section, dict) or not isinstance(section.get("optimizer"), dict):
        return False
    name = _name(section)
    return name in PASSIVE and all(section.get(setting) is None for setting in PASSIVE[name])


def _name(section: dict[str, Any]) -> str:
    # All names also work with this prefix.
    return str(section.get("@optimizers")).removeprefix("thinc_swa.")


def sharing_key(config: Config) -> str:
    """Key of the training of a config: two configs with the same key differ only in averages
    that never change the trajectory of the weights.

    config (Config): For Thinc or for spaCy, with its seed, interpolated.
    """
    nesting = take_apart(optimizer_section(config)["optimizer"])
    rest = dict(config)
    if is_spacy_config(config):
        rest["training"] = _without_optimizer(config["training"])
    else:
        rest = _without_optimizer(rest)
    # A phase can only start SWA in an entry that has it, also in a training of its own.
    has_swa = _starts_swa(config) and any(
        _name(wrapper) == "SWA.v1" for wrapper in nesting.wrappers
    )
    # The order of sections can matter, that of the arguments of an optimizer cannot.
    return json.dumps([rest, _sort_arguments(nesting.optimizer), has_swa])


def _starts_swa(config: Config) -> bool:
    """Whether a training phase starts SWA."""
    section = config.get(SECTION if is_spacy_config(config) else "training", {})
    phases = section.get("phases") or {}
    phases = phases.get("*", phases)
    return any(isinstance(p, dict) and p.get("start_swa") is True for p in phases.values())


def _without_optimizer(section: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name != "optimizer"}


def _sort_arguments(section: Any) -> Any:
    """Sort the named arguments of a function in a config, and of those inside it."""
    if not isinstance(section, dict) or not any(name.startswith("@") for name in section):
        return section
    return [
        # Positional arguments have an order.
        [name, [_sort_arguments(item) for item in value.values()]]
        if name == "*" and isinstance(value, dict)
        else [name, _sort_arguments(value)]
        for name, value in sorted(section.items())
    ]


def nest(nestings: Sequence[Nesting]) -> Any:
    """Section of an optimizer that has the averages of several entries, with an
    `EntryBoundary` inside the wrappers of each.

    nestings (Sequence[Nesting]): Optimizers of the entries, with the same one inside.
    """
    section = nestings[0].optimizer
    if nestings[0].use_averages is not None:
        is_used = any(nesting.uses_averages for nesting in nestings)
        section = {**section, "use_averages": is_used}
    for i, nesting in reversed(list(enumerate(nestings))):
        section = {"@optimizers": BOUNDARY, "entry": i, "optimizer": section}
        for wrapper in reversed(nesting.wrappers):
            section = {**wrapper, "optimizer": section}
    return section


def describe_sharing(entries: Iterable[tuple[str, Config]]) -> str:
    """Describe entries that are trained together in one line.

    entries (Iterable[tuple[str, Config]]): At least two names and configs, the baseline first.
    """
    nestings = {
        name: take_apart(optimizer_section(config)["optimizer"]) for name, config in entries
    }
    names = list(nestings)
    first = next((name for name in names if nestings[name].is_raw), None)
    others = [name for name in names if name != first]
    verb = "is" if len(others) == 1 else "are"
    if first is None:
        return f"{_join(others)} are averages of the same training: trained once per seed"
    if any(nestings[name].is_raw for name in others):
        return f"{_join(names)} are the same training: trained once per seed"
    what = "an average" if len(others) == 1 else "averages"
    return (
        f"{_join(others)} {verb} {what} of the same training as {first}: trained once per seed"
    )


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

"""Differences between the configs in the report."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinc.api import Config

from ..training.fingerprints import describe_settings


@dataclass
class Differences:
    """Settings that differ between configs.

    names (list[str]): Names of the configs.
    rows (list[tuple[str, list[str | None]]]): Settings, with a value per config as JSON; None
        where it is missing.
    """

    names: list[str]
    rows: list[tuple[str, list[str | None]]]


def find_differences(configs: Sequence[tuple[str, Config]]) -> Differences:
    """Find the settings that differ between configs.

    configs (Sequence[tuple[str, Config]]): Names and configs, without variables. Equal configs
        become one, with all their names.
    RETURNS (Differences): The differing settings. Sections are in the order of the configs, and
        the settings of a section come before those of the sections in it.
    """
    columns: list[tuple[list[str], dict[str, str]]] = []
    for name, config in configs:
        settings = describe_settings(config, skip=())
        same = [names for names, found in columns if found == settings]
        if same:
            same[0].append(name)
        else:
            columns.append(([name], settings))
    names = dict.fromkeys(name for _, settings in columns for name in settings)
    first = {name: i for i, name in reversed(list(enumerate(map(_top_section, names))))}
    rows = [
        (name, [settings.get(name) for _, settings in columns])
        for name in sorted(names, key=lambda name: (first[_top_section(name)], _sections(name)))
    ]
    return Differences(
        [", ".join(names) for names, _ in columns],
        [(name, values) for name, values in rows if len(set(values)) > 1],
    )


def _top_section(name: str) -> str:
    return name.partition(".")[0]


def _sections(name: str) -> list[str]:
    return name.split(".")[:-1]

"""What README and the pages show can be run, and their links lead somewhere."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import require
from thinc.api import Config, Optimizer, registry

from thinc_swa.training import registry as training_registry

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]


def blocks(path, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf8"), re.MULTILINE | re.DOTALL
    )


def each_page_with(language):
    pages = [path for path in PAGES if blocks(path, language)]
    return pytest.mark.parametrize("path", pages, ids=lambda path: path.stem)


@each_page_with("ini")
def test_every_config_makes_an_optimizer(path):
    for text in blocks(path, "ini"):
        if "@optimizers" not in text:
            continue  # See test_other_names_in_configs_are_registered.
        # Where a block is a part of a config, the rest of it that matters.
        more = "" if "\n[training]\n" in text else "[training]\nmax_steps = 1000\n\n"
        more += "[initialize]\n\n" if "[initialize." in text else ""
        config = Config().from_str(more + text)
        section = config if "optimizer" in config else config["training"]
        optimizer = registry.resolve({"optimizer": section["optimizer"]})["optimizer"]
        assert isinstance(optimizer, Optimizer)


@each_page_with("ini")
def test_other_names_in_configs_are_registered(path):
    require("spacy")
    from spacy import registry as spacy_registry

    registries = (registry, spacy_registry, training_registry)
    for text in blocks(path, "ini"):
        for kind, name in re.findall(r'^@(\w+) = "([^"]+)"', text, flags=re.MULTILINE):
            assert any(hasattr(each, kind) and each.has(kind, name) for each in registries), (
                name
            )


@each_page_with("python")
def test_all_python_compiles(path):
    for text in blocks(path, "python"):
        ast.parse(text)


@pytest.mark.parametrize("path", [README, DOCS / "thinc.md"], ids=lambda path: path.stem)
def test_the_training_loop_runs(path):
    require("sklearn")
    (text,) = blocks(path, "python")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", text], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    assert float(re.fullmatch(r"Correct: ([\d.]+)\n", run.stdout).group(1)) > 0.9


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README.read_text(encoding="utf8"))
    local = [link for link in links if not link.startswith("https://")]
    assert len(local) > 10
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf8").splitlines()) <= 180

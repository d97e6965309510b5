"""Pages from files of the repository that are not in docs/."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Folders and files in the site, with where they come from. README.md is the page of a folder.
SOURCES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "benchmarks/README.md": "benchmarks/README.md",
    "benchmarks/results": "benchmarks/results",
    "studies": "examples/studies",
}
SPELLINGS = {"spacy": "spaCy", "swa": "SWA", "ema": "EMA"}
HIDDEN = re.compile(r"(^|/)(\.|__pycache__)")


def repository_files() -> dict[str, Path]:
    """RETURNS (dict[str, Path]): Files of the repository by their place in the site."""
    found: dict[str, Path] = {}
    for target, source in SOURCES.items():
        path = ROOT / source
        if path.is_file():
            found[target] = path
            continue
        for file in sorted(path.rglob("*")):
            place = file.relative_to(path).as_posix()
            if file.is_file() and not HIDDEN.search(place):
                found[f"{target}/{place}"] = file
    return found


def examples_page() -> str:
    """RETURNS (str): A page with every numbered script of examples/."""
    parts = [
        "# Examples\n\nShort scripts, in the order in which to read them. Run them from a "
        "clone of the repository: `python examples/1_thinc_loop.py`. Most need scikit-learn "
        'for the digits (`pip install "thinc-swa[cli]"`).\n\n'
    ]
    paths = (ROOT / "examples").glob("[0-9]*.py")
    for path in sorted(paths, key=lambda path: int(path.stem.partition("_")[0])):
        docstring, code = re.match(
            r'"""(.*?)"""\n+(.*)', path.read_text(encoding="utf8"), re.DOTALL
        ).groups()
        paragraphs = [
            f"```bash\n{inspect.cleandoc(paragraph)}\n```"
            if "python examples/" in paragraph
            else paragraph
            for paragraph in docstring.strip().split("\n\n")
        ]
        words = path.stem.partition("_")[2].replace("_", " ").capitalize()
        title = " ".join(SPELLINGS.get(word.lower(), word) for word in words.split())
        parts.append("\n\n".join([f"## {title}", *paragraphs]) + "\n\n")
        parts += _code_block(f"examples/{path.name}", "python", code)
    shared = (ROOT / "examples" / "digits.py").read_text(encoding="utf8")
    parts.append("## Shared by the examples\n\n")
    parts += _code_block("examples/digits.py", "python", shared)
    return "".join(parts)


def configs_page() -> str:
    """RETURNS (str): A page with every config of configs/."""
    parts = [
        "# Example configs\n\nComplete configs, each of which trains as it is. The tests train "
        "with all of them.\n\n"
    ]
    for folder, title in (
        ("spacy", "For spaCy"),
        ("digits", "For Thinc: handwritten digits"),
        ("training", "For Thinc: phases, losses and data"),
    ):
        parts.append(f"## {title}\n\n")
        for path in sorted((ROOT / "configs" / folder).glob("*.cfg")):
            comment, body = _split_comment(path.read_text(encoding="utf8"))
            parts.append(f"### {path.name}\n\n{comment}\n\n")
            parts += _code_block(f"configs/{folder}/{path.name}", "ini", body)
            code = path.with_suffix(".py")
            if code.exists():
                text = code.read_text(encoding="utf8")
                parts += _code_block(f"configs/{folder}/{code.name}", "python", text)
    return "".join(parts)


def _code_block(path: str, language: str, code: str) -> Iterator[str]:
    """A file that can be unfolded."""
    yield f'??? example "{path}"\n\n'
    indented = re.sub(r"^(?=.)", "    ", code.strip(), flags=re.MULTILINE)
    yield f"    ```{language}\n{indented}\n    ```\n\n"


def _split_comment(text: str) -> tuple[str, str]:
    """The comment at the top of a config as Markdown, and the config. Paragraphs that are a
    command become code."""
    comment = re.match(r"(?:#.*\n)*", text)[0]
    lines = [line.removeprefix("#").removeprefix(" ") for line in comment.splitlines()]
    paragraphs = "\n".join(lines).strip().split("\n\n")
    return "\n\n".join(
        f"```bash\n{paragraph}\n```"
        if paragraph.startswith("python")
        else re.sub(r"\[[\w.]+\]", r"`\g<0>`", paragraph)
        for paragraph in paragraphs
    ), text.removeprefix(comment)

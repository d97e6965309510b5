"""MkDocs hooks: the pages and pictures of the site that are generated when it is built."""

from pathlib import Path

# The modules of this folder, which MkDocs puts on the path while it imports the hooks.
from api import api_pages
from command_line import command_line
from config_reference import config_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from pictures import pictures
from repository import configs_page, examples_page, repository_files


def generated_files() -> dict[str, str | bytes | Path]:
    """RETURNS (dict[str, str | bytes | Path]): What is generated, by its place in the site: its
    content, or a file of the repository.
    """
    return {
        "reference/config.md": config_reference(),
        "reference/cli.md": command_line(),
        **{f"reference/api/{name}.md": page for name, page in api_pages().items()},
        "examples.md": examples_page(),
        "configs.md": configs_page(),
        **{f"pictures/{name}": picture for name, picture in pictures().items()},
        **repository_files(),
    }


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated files."""
    for place, source in generated_files().items():
        content = (
            {"abs_src_path": str(source)} if isinstance(source, Path) else {"content": source}
        )
        file = File.generated(config, place, inclusion=InclusionLevel.INCLUDED, **content)
        files.append(file)
    return files

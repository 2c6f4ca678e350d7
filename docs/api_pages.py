"""mkdocs hook: one API page a module, made from its docstrings, and the project's pages at the root."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("osteojax", "data_prep")
ROOT_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "ARCHITECTURE.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}


def module_names() -> list[str]:
    """Dotted names of all modules, packages before what they hold; entry points and private ones are left out."""
    names = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            if not any(part.startswith("_") for part in parts):
                names.append(".".join(parts))
    return sorted(names)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    names = module_names()
    for name in names:
        files.append(File.generated(config, f"api/{name}.md", content=f"# {name}\n\n::: {name}\n"))
    for source, page in ROOT_PAGES.items():
        text = (ROOT / source).read_text().replace("](docs/", "](").replace("](README.md", "](index.md")
        files.append(File.generated(config, page, content=text))
    index = "".join(f"- [{name}]({name}.md)\n" for name in names)
    files.append(File.generated(config, "api/index.md", content=f"# API\n\n{index}"))
    return files

"""Parts of the site that are generated from the code: command line, configuration, architecture."""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, *, page, config, files) -> str:
    """Replace the markers ``<!-- made: NAME -->`` by generated text."""
    makers = {
        "command line": command_line,
        "configuration": configuration,
        "wings": wings,
        "contracts": contracts,
        "results": results,
        "candidate columns": candidate_columns,
    }
    if page.file.src_uri.endswith("glossary.md"):
        markdown = with_anchors(markdown)
    return re.sub(r"<!-- made: ([a-z ]+) -->", lambda found: makers[found[1]](), markdown)


def command_line() -> str:
    """Every command with its options."""
    from otrain_core.cli.parser import build_parser

    return "\n".join(_verbs(build_parser(), "otrain", 2))


def _verbs(parser: argparse.ArgumentParser, name: str, level: int) -> list[str]:
    lines: list[str] = []
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for verb, made in action.choices.items():
            lines += [f"{'#' * level} {name} {verb}", "", made.description or "", ""]
            usage = " ".join(made.format_usage().removeprefix("usage: ").split())
            lines += ["```bash", usage, "```", "", *_options(made), ""]
            lines += _verbs(made, f"{name} {verb}", level + 1)
    return lines


def _options(parser: argparse.ArgumentParser) -> list[str]:
    rows = [
        f"| `{', '.join(action.option_strings) or action.dest}` | {(action.help or '').replace('|', chr(92) + '|')} |"
        for action in parser._actions
        if action.help and action.help != argparse.SUPPRESS and "--help" not in action.option_strings
    ]
    return ["| argument | |", "|---|---|", *rows] if rows else []


def configuration() -> str:
    """All configuration keys: the text of config/README.md, whose tables come from the typed configuration."""
    text = (ROOT / "config/README.md").read_text(encoding="utf-8")
    return "\n".join(text.splitlines()[1:])


def results() -> str:
    """Files of a run: the text of results/README.md."""
    text = (ROOT / "results/README.md").read_text(encoding="utf-8")
    return "\n".join(text.splitlines()[1:])


def candidate_columns() -> str:
    """Columns of the tables of `otrain search`."""
    from otrain_core.night.search import COLUMNS

    rows = [f"| `{name}` | {unit or ''} | {text} |" for name, (unit, text) in COLUMNS.items()]
    return "\n".join(["| column | unit | |", "|---|---|---|", *rows])


def on_files(files, *, config):
    """Add the pictures of the paper from results/paper to the site."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "results/paper").glob("*.png")):
        files.append(File.generated(config, f"paper/{path.name}", abs_src_path=str(path)))
    return files


def with_anchors(markdown: str) -> str:
    """Add an anchor to each term of a definition list: its words in lower case, joined by dashes."""
    from markdown.extensions.toc import slugify

    terms = re.compile(r"^(?:[^\s:#].*\n)+(?=:   )", flags=re.M)
    return terms.sub(
        lambda found: "".join(f"{term} {{#{slugify(term, '-')}}}\n" for term in found[0].splitlines()), markdown
    )


def wings() -> str:
    """The wings of the package, in layers from top to bottom, from the import contract in pyproject.toml."""
    lines = ["| layer | wing | purpose |", "|---|---|---|"]
    for number, layer in enumerate(next(item["layers"] for item in _contracts() if item["type"] == "layers"), start=1):
        for name in re.split(r"\s*[|:]\s*", layer):
            lines.append(f"| {number} | `{name}` | {_first_sentence(name)} |")
    return "\n".join(lines)


def contracts() -> str:
    """The other import contracts: which packages must not be imported by which wings."""
    lines = ["| rule | not imported | by |", "|---|---|---|"]
    for item in _contracts():
        if item["type"] == "forbidden":
            names = [
                ", ".join(f"`{name.split('.')[-1]}`" for name in item[key])
                for key in ("forbidden_modules", "source_modules")
            ]
            lines.append(f"| {item['name']} | {names[0]} | {names[1]} |")
    return "\n".join(lines)


def _contracts() -> list[dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


def _first_sentence(name: str) -> str:
    path = ROOT / "otrain_core" / name
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    return text.split('"""')[1].split("\n")[0]

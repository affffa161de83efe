"""The documentation: it builds without a warning, fetches nothing, and its commands exist."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from otrain_core.cli.main import build_parser
from tools.publish import quoting


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Fetched(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(values.get("src") or "")
        if tag == "link" and values.get("rel") in ("stylesheet", "preconnect", "preload", "icon"):
            self.found.append(values.get("href") or "")


def test_the_site_builds_and_fetches_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        parser = _Fetched()
        parser.feed(page.read_text(encoding="utf-8"))
        assert not [address for address in parser.found if re.match(r"(https?:)?//", address)], page


def test_pages_are_made_from_the_code(site):
    command_line = (site / "reference/command-line/index.html").read_text(encoding="utf-8")
    assert "otrain models promote" in command_line and "--both-signs" in command_line
    assert "saturation_fraction" in (site / "reference/configuration/index.html").read_text(encoding="utf-8")
    architecture = (site / "explanation/architecture/index.html").read_text(encoding="utf-8")
    assert architecture.index("<code>cli</code>") < architecture.index("<code>stars</code>")
    assert "made:" not in command_line + architecture


def commands(root):
    """Every command in the blocks of README and documentation, with its page."""
    for page in quoting(root):
        for language, block in re.findall(r"^```([a-z]*)\n(.*?)^```", page.read_text(), flags=re.S | re.M):
            if language in ("", "bash"):
                for line in block.splitlines():
                    words = line.split("#")[0].split("&&")[0].strip()
                    if re.match(r"(otrain|make|snakemake) ?", words):
                        yield page.name, words


def test_commands_of_the_pages_are_understood(root):
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), flags=re.M))
    checked = 0
    for page, line in commands(root):
        words = shlex.split(line)
        if words[0] == "make":
            named = [word for word in words[1:] if "=" not in word]
            assert named and set(named) <= targets, (page, line)
        elif words[0] == "otrain":
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    build_parser().parse_args(words[1:])
            except SystemExit:
                pytest.fail(f"{page}: {line}: {said.getvalue()}")
        checked += 1
    assert checked > 50


def test_the_readme_is_short(root):
    assert len((root / "README.md").read_text().splitlines()) <= 150

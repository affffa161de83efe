"""The documentation: it builds without a warning, fetches nothing, and answers the questions of a new user."""

import html
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml


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
    assert "A wing imports only" in architecture and "<code>mlflow</code>" in architecture
    assert "motion_error" in (site / "reference/files/index.html").read_text(encoding="utf-8")


def answer(site, page, anchor):
    """Text of a page from an anchor to the next heading of its level or above."""
    text = (site / page / "index.html").read_text(encoding="utf-8")
    assert f'id="{anchor}"' in text, f"{page}: no anchor {anchor}"
    level, rest = re.search(rf'<h([1-6]) id="{anchor}"(.*)', text, flags=re.S).groups()
    rest = re.split(rf"<h[1-{level}] id=|</article>", rest)[0]
    return " ".join(html.unescape(re.sub("<[^>]+>", "", rest)).split())


def test_the_site_answers_the_questions_of_a_new_user(root, site):
    questions = yaml.safe_load((root / "tests/workflow/questions.yaml").read_text())
    assert len(questions) == 20
    for item in questions:
        text = answer(site, *item["answer"].split("#"))
        missing = [word for word in item["words"] if word not in text]
        assert not missing, (item["question"], missing)


def test_each_word_of_the_glossary_has_an_anchor(site):
    text = (site / "glossary/index.html").read_text(encoding="utf-8")
    assert '<dt id="validation-set">' in text and "{#" not in text
    assert text.count("<dt id=") == text.count("<dt") > 25


def test_the_hooks_of_a_commit_are_checks_of_make_lint(root):
    """`.pre-commit-config.yaml` runs programs of the environment, with the arguments of `make lint`."""
    lint = re.search(r"^lint:.*\n\t(.*)", (root / "Makefile").read_text(), flags=re.M)[1]
    hooks = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["language"] for hook in hooks] == ["system"] * 4
    for hook in hooks:
        assert hook["entry"] in lint, hook["id"]
        assert Path(sys.executable).with_name(hook["entry"].split()[0]).is_file(), hook["id"]


def test_the_readme_is_short(root):
    assert len((root / "README.md").read_text().splitlines()) <= 150

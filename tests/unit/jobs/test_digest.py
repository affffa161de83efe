"""The digest of a step's code, on a small package of its own; on the real tree in tests/workflow/test_digest.py."""

import pytest

from otrain_core.jobs import digest

FILES = {
    "scripts/a/step.py": "from otrain_core.a.step import run\n",
    "scripts/a/other.py": "from otrain_core.b import lower\n",
    "scripts/networks/train.py": "from otrain_core.a.step import run\nfrom otrain_core.registry.live import watch\n",
    "otrain_core/__init__.py": "",
    "otrain_core/errors.py": "class Wrong(Exception): pass\n",
    "otrain_core/a/__init__.py": "",
    "otrain_core/a/step.py": "from ..errors import Wrong\nSTYLE = 'page.html'\n\ndef run():\n    from . import near\n",
    "otrain_core/a/near.py": "import otrain_core.b.lower\nFILES = ('templates', 'copied.py')\n",
    "otrain_core/a/copied.py": "x = 1\n",
    "otrain_core/a/page.html": "<p>",
    "otrain_core/a/unnamed.html": "<p>",
    "otrain_core/a/templates/one.html": "<p>",
    "otrain_core/b/__init__.py": "",
    "otrain_core/b/lower.py": "import numpy\n",
    "otrain_core/b/unused.py": "",
    "otrain_core/networks/__init__.py": "",
    "otrain_core/networks/progress.py": "",
    "otrain_core/registry/__init__.py": "",
    "otrain_core/registry/live.py": "",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    digest.forget()
    yield tmp_path
    digest.forget()


def names(tree, script):
    return [path.relative_to(tree / "otrain_core").as_posix() for path in digest.code_files(script, root=tree)]


def test_modules_are_found_through_others_inside_functions_and_relative(tree):
    assert names(tree, "a/step") == [
        *("a/copied.py", "a/near.py", "a/page.html", "a/step.py", "a/templates/one.html", "b/lower.py")
    ]
    assert names(tree, "a/other") == ["b/lower.py"]


def test_what_cannot_change_a_result_is_left_out(tree):
    (tree / "otrain_core/a/near.py").write_text("from otrain_core.networks.progress import bar\nimport otrain_core\n")
    digest.forget()
    assert names(tree, "a/step") == ["a/near.py", "a/page.html", "a/step.py"]


def test_a_preview_on_a_server_is_left_out_of_the_training_alone(tree):
    (tree / "scripts/a/other.py").write_text("import otrain_core.registry.live\n")
    assert "registry/live.py" not in names(tree, "networks/train")
    assert names(tree, "a/other") == ["registry/live.py"]


@pytest.mark.parametrize(
    ("changed", "steps"),
    [
        ("otrain_core/b/lower.py", {"a/step", "a/other", "networks/train"}),
        ("otrain_core/a/templates/one.html", {"a/step", "networks/train"}),
        ("otrain_core/a/unnamed.html", set()),
        ("otrain_core/b/unused.py", set()),
        ("otrain_core/errors.py", set()),
        ("scripts/a/other.py", {"a/other"}),
    ],
)
def test_an_edit_changes_the_digest_of_the_steps_that_use_the_file(tree, changed, steps):
    scripts = ("a/step", "a/other", "networks/train")
    before = {script: digest.code_digest(script, root=tree) for script in scripts}
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in before.values())
    with open(tree / changed, "a") as file:
        file.write("# edited\n")
    digest.forget()
    after = {script: digest.code_digest(script, root=tree) for script in scripts}
    assert {script for script in scripts if after[script] != before[script]} == steps


def test_a_file_that_moves_changes_the_digest(tree):
    before = digest.code_digest("a/other", root=tree)
    (tree / "otrain_core/b/lower.py").rename(tree / "otrain_core/b/moved.py")
    (tree / "scripts/a/other.py").write_text("from otrain_core.b import moved\n")
    digest.forget()
    assert digest.code_digest("a/other", root=tree) != before

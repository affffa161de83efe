"""The layout of the library: imports one way, a test file for every module."""

import subprocess
import sys
from pathlib import Path


def test_imports_run_one_way(root):
    """The contracts of pyproject.toml."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert "0 broken" in result.stdout


def test_every_module_has_the_test_file_of_its_name(root):
    modules = [path.relative_to(root / "otrain_core") for path in (root / "otrain_core").rglob("*.py")]
    modules += [Path("tools", path.name) for path in (root / "tools").glob("*.py")]
    missing = [
        str(path)
        for path in modules
        if path.name != "__init__.py" and not (root / "tests/unit" / path.parent / f"test_{path.name}").is_file()
    ]
    assert missing == []

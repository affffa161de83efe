"""The parser: help of every verb."""

import pytest

from otrain_core.cli.parser import build_parser


@pytest.mark.parametrize(
    "verb", ["convert", "export", "train", "classify", "diagnose", "explain", "models", "label", "check", "monitor"]
)
def test_help_of_every_verb(verb, capsys):
    with pytest.raises(SystemExit) as done:
        build_parser().parse_args([verb, "--help"])
    assert done.value.code == 0
    assert "usage: otrain" in capsys.readouterr().out

"""Arguments with invalid numbers."""

import pytest

from otrain_core.cli.parser import build_parser


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "x", "-m", "m", "--sigma", "nan"],
        ["classify", "x", "-m", "m", "--sigma", "-1"],
        ["classify", "x", "-m", "m", "--bin", "0"],
        ["classify", "x", "-m", "m", "--threads", "0"],
        ["convert", "x", "-o", "c.npz", "--size", "0"],
        ["convert", "x", "-o", "c.npz", "--seed", "-1"],
        ["train", "x", "-o", "f", "--epochs", "0"],
        ["check", "x", "--pixel-scale", "inf"],
        ["label", "serve", "--port", "99999"],
        ["convert", "x", "-o", "c.npz", "--true-fraction", "half"],
        ["train", "x", "-o", "f", "--threads", "two"],
    ],
)
def test_numbers_out_of_bounds_are_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(arguments)
    assert stop.value.code == 2 and "must be" in capsys.readouterr().err

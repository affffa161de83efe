"""What the report says in words."""

from otrain_core.report.text import config_lines, words


def test_the_configuration_is_flattened():
    assert config_lines({"a": {"b": [1, 2]}, "c": None}) == [("a.b", "1, 2"), ("c", "–")]


def test_values_in_words():
    assert (words(["a", "b"]), words(None), words(""), words(3)) == ("a, b", "–", "–", "3")

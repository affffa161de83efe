"""Sections: what they refuse, how that is told, and their YAML files."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from otrain_core.errors import ConfigError
from otrain_core.plan.sections import Section, explain_first, near_name, read_yaml

BOMB = b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (k, k, b", ".join([b"*a%d" % (k - 1)] * 10)) for k in range(1, 9)
)


class Example(Section):
    """Two keys."""

    wide: float = 1.0
    names: list[int] = []
    word: Literal["auto"] | Annotated[float, Field(gt=0)] | None = None


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"wide": "x"}, "here: wide: Input should be a valid number, unable to parse string as a number (found 'x')"),
        ({"wide": float("nan")}, "here: wide: Input should be a finite number (found nan)"),
        ({"names": [1, "b"]}, "here: names.1: Input should be a valid integer, unable to parse string as an integer"),
        ({"word": -1}, "here: word: Input should be 'auto' (found -1)"),
        ({"wid": 1}, "here: wid: unknown key; did you mean 'wide'?"),
        ({"zzzzzz": 1}, "here: zzzzzz: unknown key"),
    ],
)
def test_the_first_error_in_one_sentence(values, told):
    with pytest.raises(ValidationError) as caught:
        Example.model_validate(values)
    assert explain_first(caught.value, "here").startswith(told)


def test_a_missing_key_and_an_error_of_a_whole_section():
    class Strict(Section):
        needed: int

        @model_validator(mode="after")
        def _positive(self):
            if self.needed < 0:
                raise ValueError("needed: must be positive")
            return self

    for values, told in (({}, "here: needed: this key is needed, but missing"), ({"needed": -1}, "here: needed: must")):
        with pytest.raises(ValidationError) as caught:
            Strict.model_validate(values)
        assert explain_first(caught.value, "here").startswith(told)


def test_near_names():
    assert near_name("treshold") == "; did you mean 'threshold'?"
    assert near_name("qqqq") == ""
    assert near_name("imag", ["image", "path"]) == "; did you mean 'image'?"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "bad.yaml: not YAML"),
        (b"- 1\n- 2\n", "bad.yaml: must consist of keys and values, but is a list"),
        (b"a: \xff\xfe", "bad.yaml: not a text file in UTF-8"),
        (b"a: 1\nb: 2\na: 3\n", "bad.yaml: not YAML: line 3: 'a' appears twice"),
        (b"a: 2024-13-45\n", "bad.yaml: not YAML: month must be in 1..12"),
        (b"a: &a [*a]\n", "bad.yaml: nested too deeply, or an anchor contains itself"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "bad.yaml: nested too deeply"),
        (BOMB, "bad.yaml: more than 1000000 values after its anchors are expanded"),
    ],
)
def test_bad_yaml_files(tmp_path, content, message):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "bad.yaml")


def test_yaml_files(tmp_path):
    (tmp_path / "good.yaml").write_text("a: {b: 1}\n")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "good.yaml") == {"a": {"b": 1}}
    assert read_yaml(tmp_path / "empty.yaml") == {}
    with pytest.raises(ConfigError, match="none.yaml: no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="not a file"):
        read_yaml(tmp_path)
    (tmp_path / "shared.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: *a\n")
    assert read_yaml(tmp_path / "shared.yaml") == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 1}}

"""Generated files of config/: in step with the models, and whole."""

import yaml

from otrain_core.plan.config import Config, load_config
from otrain_core.plan.config_docs import default_yaml, generate, keys_markdown


def test_generated_files_are_in_step(root):
    for path, text in generate(root / "config").items():
        assert path.read_text() == text, (
            f"{path.name} is out of step with otrain_core/plan/config.py: run `make config`"
        )


def test_default_yaml_is_the_default(root):
    assert load_config(yaml.safe_load((root / "config/config.yaml").read_text())) == Config()


def test_the_commented_default_reads_back_as_the_default():
    assert load_config(yaml.safe_load(default_yaml())) == Config()


def test_every_key_is_in_the_tables():
    """Defaults that are dictionaries of plain values too; what holds sections has a table of its own."""
    text = keys_markdown()
    assert '| `mix` | `{"random": 0.7, "galaxy": 0.15, "star": 0.15}` |' in text
    assert "| `telescopes` | `{}` |" in text and "| `option` | (needed) |" in text
    assert "| `pipelines` |" not in text and "### `pipelines.{pipeline}.psf`" in text
    assert "[empirical \\| psfex]" in text

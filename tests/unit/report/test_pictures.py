"""The pictures of the report: what is drawn in them."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.report import pictures
from tests.unit.synthetic_cube import make_cube


@pytest.fixture
def drawn(monkeypatch):
    """The figures, kept instead of embedded."""
    kept = []
    monkeypatch.setattr(pictures, "embed", lambda figure: kept.append(figure) or "data:")
    return kept


def test_false_are_drawn_evenly_over_their_kinds():
    cube = make_cube(300, size=9)
    rare = np.flatnonzero(cube["labels"] == 0)[:2]
    cube["artefacts"][cube["labels"] == 0] = "cosmic"
    cube["artefacts"][rare] = "trail"
    rows = pictures._even_draw(cube, 0, np.random.default_rng(0), 6)
    assert cube["artefacts"][rows].tolist() == ["cosmic"] * 4 + ["trail"] * 2
    assert len(set(rows)) == 6 and (cube["labels"][rows] == 0).all()
    assert (cube["labels"][pictures._even_draw(cube, 1, np.random.default_rng(0), 6)] == 1).all()


def test_triplets_show_the_three_images_of_each_candidate(drawn):
    cube = make_cube(60, size=9)
    pictures.triplets(cube, label=0, n=5)
    (ax,) = drawn[0].axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["science", "reference", "difference"]
    assert len(ax.get_xticklabels()) == 5
    assert {text.get_text() for text in ax.get_xticklabels()} <= {"dipole", "cosmic", "blob"}


def test_a_true_candidate_is_titled_by_its_signal(drawn):
    cube = make_cube(60, size=9)
    row = int(np.flatnonzero(cube["labels"] == 1)[0])
    assert pictures._title(cube, row) == f"S/N {cube['snr'][row]:.0f}"
    assert pictures._title({"cube": cube["cube"]}, row) == ""


def test_quality_has_one_point_an_image(drawn):
    columns = ("noise_spread", "limit_5sigma_mag", "completeness_50_mag", "seeing_arcsec", "n_true", "n_false")
    quality = pd.DataFrame({name: [1.0, np.nan, 3.0] for name in columns})
    pictures.quality_plots(quality)
    assert len(drawn[0].axes) == 4
    assert [len(ax.lines[0].get_xdata()) for ax in drawn[0].axes] == [3] * 4
    assert drawn[0].axes[1].get_ylabel() == "Depth [mag]"
    pictures.quality_plots(quality, instrumental=True)
    assert drawn[1].axes[1].get_ylabel() == "Depth [instrumental mag]"

"""Figures without pyplot, their files and data URIs."""

import base64

import pytest

from otrain_core.figures.canvas import RESOLUTION, Display, data_uri, embed, new_figure, save_figure

PNG = b"\x89PNG\r\n\x1a\n"


def test_an_embedded_figure_is_a_png_of_its_size():
    figure, _ = new_figure(2.0, 1.5)
    head, _, body = embed(figure).partition(",")
    png = base64.b64decode(body)
    assert head == "data:image/png;base64" and png.startswith(PNG)
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    assert (width, height) == (2.0 * RESOLUTION, 1.5 * RESOLUTION)


def test_bytes_survive_the_data_uri():
    assert base64.b64decode(data_uri(b"\x00\xffpng").partition(",")[2]) == b"\x00\xffpng"


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_the_same_figure_gives_the_same_bytes_and_no_date(tmp_path, suffix):
    for name in ("a", "b"):
        figure, ax = new_figure(2.0, 1.5)
        ax.plot([0, 1], [1, 0])
        save_figure(tmp_path / f"{name}.{suffix}", figure)
    made = (tmp_path / f"a.{suffix}").read_bytes()
    assert made == (tmp_path / f"b.{suffix}").read_bytes()
    assert b"CreationDate" not in made and b"Software" not in made


def test_a_display_draws_into_given_axes_or_its_own_and_leaves_the_style_alone():
    import matplotlib

    class Line(Display):
        def _draw(self, ax):
            ax.plot([0, 1], [0, 1])

    before = dict(matplotlib.rcParams)
    figure, axes = new_figure(columns=2)
    shown = Line().plot(axes[1])
    assert shown.ax_ is axes[1] and shown.figure_ is figure and len(axes[1].lines) == 1 and not axes[0].lines
    assert Line().plot().figure_ is not figure
    assert dict(matplotlib.rcParams) == before

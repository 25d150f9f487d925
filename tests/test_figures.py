"""figures.py: what is drawn, and that the same figure is the same bytes."""

from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_pdf import RendererPdf
from PIL import Image

import gscam_lib as gs
from gscam_lib import figures
from gscam_lib.figures import maps

mpl.use("Agg")


@pytest.fixture
def heat(photo):
    values = np.zeros(photo.shape[:2], np.float32)
    values[10:20, 30:50] = 1
    return gs.Heatmap(values, False, 20.0, "gscorecam", "a cat", 25, "tiny", "gScoreCAM", (7, 7))


def test_overlay_leaves_what_is_cold_and_colours_what_is_hot(photo, heat):
    mixed = figures.overlay(photo, heat.values)
    assert mixed.shape == photo.shape
    assert mixed.dtype == np.uint8
    cold = heat.values == 0
    np.testing.assert_array_equal(mixed[cold], photo[cold])
    hottest = 255 * np.array(mpl.colormaps["inferno"](1.0)[:3])
    np.testing.assert_allclose(mixed[~cold], 0.25 * photo[~cold] + 0.75 * hottest, atol=1)
    with pytest.raises(ValueError, match="70"):
        figures.overlay(photo, heat.values.T)


def test_overlay_covers_more_the_hotter():
    grey = np.full((1, 101, 3), 128, np.uint8)
    values = np.linspace(0, 1, 101, dtype=np.float32)[None]
    mixed = figures.overlay(grey, values, opacity=0.6)
    for v in (0.25, 0.5, 0.75):
        i = round(100 * v)
        alpha = 0.6 * v * v * (3 - 2 * v)
        color = 255 * np.array(mpl.colormaps["inferno"](values[0, i])[:3])
        np.testing.assert_allclose(mixed[0, i], (1 - alpha) * 128 + alpha * color, atol=0.51)
    moved = np.abs(mixed[0].astype(int) - 128).sum(1)
    assert moved[:10].max() <= 12, "no haze"
    np.testing.assert_array_equal(figures.overlay(grey, values, opacity=0), grey)


def test_overlay_of_tall_photos_is_that_of_their_parts():
    rng = np.random.default_rng(0)
    tall = rng.integers(0, 256, (600, 4, 3), dtype=np.uint8)
    values = rng.random((600, 4), np.float32)
    parts = [figures.overlay(tall[i : i + 1], values[i : i + 1]) for i in range(600)]
    np.testing.assert_array_equal(figures.overlay(tall, values), np.concatenate(parts))


def test_axes_in_axes_out(photo, heat):
    _, ax = plt.subplots()
    assert figures.show_heatmap(photo, heat, box=(30, 10, 50, 20), ax=ax) is ax
    rectangle = ax.patches[-1]
    assert rectangle.get_xy() == (29.5, 9.5)
    assert (rectangle.get_width(), rectangle.get_height()) == (20, 10)
    assert "a cat" in ax.get_title(loc="left") + ax.get_title()
    assert figures.show_photo(photo) is not ax


def test_panels_name_prompts_and_weights(photo, heat):
    figure = figures.panels(photo, [heat, heat], [None, (1, 2, 3, 4)])
    assert len(figure.axes) == 3
    assert "gScoreCAM, k = 25 · weights: tiny" in figure.get_supxlabel()


def test_saved_figures_are_the_same_bytes_and_listed(photo, heat, tmp_path):
    contents = []
    for _ in range(2):
        figure = figures.panels(photo, [heat])
        png = figures.save(figure, "one", "What one sees. Weights: tiny.", folder=tmp_path)
        contents.append((png.read_bytes(), png.with_suffix(".pdf").read_bytes()))
    assert contents[0] == contents[1]
    assert Image.open(png).width > 300
    index = (tmp_path / "README.md").read_text()
    assert "![one](one.png)" in index
    assert "What one sees. Weights: tiny." in index


def test_saved_pictures_have_few_shades_and_the_pdf_backend_stays_as_it_was(photo, tmp_path):
    draw = RendererPdf.draw_image
    figure = figures.show_photo(photo).figure
    sizes = []
    for shades in (1, maps.SHADES):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(maps, "SHADES", shades)
            png = figures.save(figure, f"in_{shades}", "What.", folder=tmp_path)
        sizes.append((png.stat().st_size, png.with_suffix(".pdf").stat().st_size))
    assert all(light < full for full, light in zip(*sizes, strict=True))
    with Image.open(png) as opened:
        assert len(np.unique(np.asarray(opened))) <= 44
        assert opened.info["Description"] == "What."
    assert RendererPdf.draw_image is draw


def test_the_readers_settings_stay(photo, heat):
    before = dict(mpl.rcParams)
    with figures.style():
        figures.show_heatmap(photo, heat)
    assert dict(mpl.rcParams) == before


def test_grid_of_scenes_and_methods(photo, heat):
    figure = figures.grid(
        [(photo, [heat, heat])],
        [[(30, 10, 50, 20), None]],
        [[(30, 10, 50, 22)]],
        titles=["one", "two"],
        ious=[[0.83, 0.0]],
    )
    texts = [text for ax in figure.axes for text in ax.texts]
    assert [t.get_text() for t in texts] == ["a cat", "IoU 0.83", "IoU 0.00"]
    assert [t.get_weight() for t in texts] == ["normal", "bold", "normal"]
    assert len(figure.axes[1].patches) == 4  # truth and box, each with its rim
    assert len(figure.axes[2].patches) == 2


def test_gallery_wraps_and_greys_the_controls(photo, heat):
    center = replace(heat, method="center", title="Centre")
    figure = figures.gallery(
        [(photo, [heat, heat, center]), (photo, [heat, center])],
        [[(30, 10, 50, 20)], []],
        [[(30, 10, 50, 20), None, None], [None, None]],
        notes=[["IoU 1.00", "", ""], ["", ""]],
        grey=["center"],
        columns=3,
    )
    shown = [ax for ax in figure.axes if ax.images]
    titles = ["“a cat”", "gScoreCAM", "gScoreCAM", "Centre", "“a cat”", "gScoreCAM", "Centre"]
    assert [ax.get_title(loc="left") or ax.get_title() for ax in shown] == titles
    assert len(figure.axes) == 9
    colors = {t.get_text(): t.get_color() for ax in shown for t in ax.findobj(mpl.text.Text)}
    assert colors["Centre"] != colors["gScoreCAM"]
    assert len(shown[1].patches) == 4  # truth and box, each with its rim
    assert len(shown[5].patches) == 0


def test_intervals_are_drawn_where_they_are():
    bounds = [0.2, 0.5, 0.7], [0.1, 0.4, 0.65], [0.3, 0.6, 0.75]
    ax = figures.intervals(["a", "b", "c"], *bounds, highlight="b", grey=["c"])
    ends = [list(line.get_xdata()) for line in ax.lines[::2]]
    assert ends == [[0.1, 0.3], [0.4, 0.6], [0.65, 0.75]]
    assert len({line.get_color() for line in ax.lines}) == 3
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.1, 0.3, "higher"), (-0.3, -0.1, "lower"), (-0.1, 0.3, "not decided")],
)
def test_verdicts_follow_the_interval(low, high, says):
    found = {"difference": (low + high) / 2, "low": low, "high": high, "p": 0.5}
    assert says in figures.verdict("a − b", found)


def test_environment_names_packages_and_weights(resnet):
    text = figures.environment(resnet)
    assert "torch " in text
    assert resnet.weights_sha in text


def test_a_figure_that_looks_the_same_is_left_as_it_is(tmp_path):
    def draw(shade, caption="What."):
        figure, ax = plt.subplots()
        ax.set_facecolor((shade / 255, 0.5, 0.5))
        png = figures.save(figure, "one", caption, folder=tmp_path)
        plt.close(figure)
        return png.read_bytes(), png.with_suffix(".pdf").read_bytes()

    first = draw(100)
    assert draw(101) == first, "rounding"
    assert draw(120) != first
    assert draw(100) == first
    assert draw(100, "Another caption.") != first

"""Figures of photos and maps: what is drawn, what is written; the same figure is the same bytes."""

import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_pdf import RendererPdf
from PIL import Image

import gscam_lib as gs
from gscam_lib import figures
from gscam_lib.figures import files, letters, maps

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
    assert ax.get_title(loc="left") + ax.get_title() == "“a cat”\nlogit 20.0"
    assert figures.show_photo(photo) is not ax


def test_flat_maps_are_said_to_be_flat_and_minus_is_a_minus(photo, heat):
    flat = replace(heat, flat=True, values=np.zeros_like(heat.values), logit=-1.26)
    ax = figures.show_heatmap(photo, flat)
    assert (ax.get_title(loc="left") or ax.get_title()) == "“a cat”\nlogit −1.3, flat map"
    np.testing.assert_array_equal(ax.images[0].get_array(), photo)
    figure = figures.grid([(photo, [heat, flat])], [[None, None]], [[]], titles="ab", ious=[[0, 0]])
    texts = [t.get_text() for t in figure.axes[2].texts]
    assert texts == ["IoU 0.00", "\nlogit −1.3, flat map"]


def test_map_beside_its_photo_is_the_map_alone(photo, heat):
    ax = figures.show_heatmap(photo, heat, beside=True)
    np.testing.assert_array_equal(ax.images[0].get_array(), heat.values)
    assert ax.images[0].get_clim() == (0, 1)
    figure = figures.panels(photo, [heat], beside=True)
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), heat.values)


def test_truth_and_box_differ_in_grey_print(photo):
    ax = figures.show_photo(photo)
    figures.draw_box((1, 1, 9, 9), ax=ax)
    figures.draw_box((2, 2, 8, 8), truth=True, ax=ax)
    rims, lines = ax.patches[::2], ax.patches[1::2]
    assert [p.get_linestyle() != "-" for p in lines] == [False, True], "the truth is dashed"
    assert lines[1].get_linewidth() < 0.7 * lines[0].get_linewidth()
    for rim, line in zip(rims, lines, strict=True):
        assert rim.get_linewidth() > line.get_linewidth()
        assert mpl.colors.to_rgb(rim.get_edgecolor()) == (0, 0, 0)


def test_boxes_are_thinner_on_small_pictures(photo):
    _, axes = plt.subplots(1, 2, width_ratios=[9, 1])
    thick, thin = (
        figures.draw_box((1, 1, 9, 9), ax=figures.show_photo(photo, ax=ax)).patches[1]
        for ax in axes
    )
    assert thin.get_linewidth() < 0.7 * thick.get_linewidth()


def test_large_photos_are_drawn_small_and_in_their_own_pixels(monkeypatch, photo, heat):
    monkeypatch.setattr(maps, "SCREEN", 35)  # the photo is 70 wide
    ax = figures.show_heatmap(photo, heat, box=(30, 10, 50, 20))
    shown = ax.images[0]
    assert shown.get_array().shape == (photo.shape[0] // 2, 35, 3)
    assert shown.get_extent() == [-0.5, 69.5, photo.shape[0] - 0.5, -0.5]
    assert ax.patches[-1].get_xy() == (29.5, 9.5)
    means = photo.reshape(photo.shape[0] // 2, 2, 35, 2, 3).mean((1, 3))
    np.testing.assert_allclose(figures.show_photo(photo).images[0].get_array(), means, atol=1)
    alone = figures.show_heatmap(photo, heat, beside=True).images[0].get_array()
    assert alone[7, 20] == 1
    with pytest.raises(ValueError, match="pixels"):
        figures.show_heatmap(photo[:-1], heat)


def test_panels_name_prompts_logits_and_weights_and_have_a_color_bar(photo, heat):
    figure = figures.panels(photo, [heat, heat], [None, (1, 2, 3, 4)])
    assert len(figure.axes) == 4
    assert [t.get_text() for t in figure.axes[3].get_yticklabels()] == [
        "coldest\nof each",
        "hottest\nof each",
    ]
    assert "gScoreCAM, k = 25 · weights: tiny" in figure.get_supxlabel()
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes[:3]]
    assert titles == ["photo", "“a cat”\nlogit 20.0", "“a cat”\nlogit 20.0"]


def test_each_map_says_its_k_where_they_differ(photo, heat):
    figure = figures.panels(photo, [heat, replace(heat, k=50)], titles=["one", "k = 50"])
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes[1:3]]
    assert titles == ["one\nlogit 20.0, k = 25", "k = 50\nlogit 20.0"]
    assert "k =" not in figure.get_supxlabel()


def test_dollars_are_dollars_and_lose_no_figure(photo, heat, tmp_path):
    for prompt in ("a $5 bill on a $10 bill", "a $$ sign", r"$\frac{1$"):
        figure = figures.panels(photo, [replace(heat, prompt=prompt)])
        figure.axes[0].set_title(prompt)  # a notebook's own
        figures.save(figure, "dollars", prompt, folder=tmp_path)
        texts = [t for t in figure.findobj(mpl.text.Text) if "$" in t.get_text()]
        assert len(texts) == 2
        assert not any(t.get_parse_math() for t in texts)


def test_logarithmic_ticks_stay_mathematics():
    figure, ax = plt.subplots()
    ax.plot([1, 1000], [1, 2])
    ax.set_xscale("log")
    figures.as_png(figure)
    figures.as_png(figure)
    assert all(t.get_parse_math() for t in ax.get_xticklabels())


def test_letters_that_our_font_lacks_are_looked_for(photo, heat, tmp_path):
    fraktur = "𝔄"  # in STIX, which comes with matplotlib
    figure = figures.panels(photo, [replace(heat, prompt=fraktur)])
    title = figure.axes[1]._left_title if figure.axes[1].get_title(loc="left") else None
    title = title or figure.axes[1].title
    family = title.get_fontfamily()
    assert len(family) == 2, "ours goes first"
    assert ord(fraktur) in letters._letters(mpl.font_manager.findfont(family[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.as_png(figure)


def test_letters_that_no_font_has_are_named(photo, heat):
    letters._families.cache_clear()
    with pytest.warns(UserWarning, match="\U0010fffd"):
        figure = figures.panels(photo, [replace(heat, prompt="a \U0010fffd")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.as_png(figure)  # said once, and drawn


def test_signed_numbers_can_be_told_apart():
    assert figures.signed([0.0071, 0.0074, -0.002]) == ["+0.0071", "+0.0074", "−0.0020"]
    assert figures.signed([0.5, -0.0001, 0.0], 2) == ["+0.5000", "−0.0001", "0.0000"]
    assert figures.signed([1e-9, -1e-9]) == ["0.000000", "0.000000"]


def test_saved_figures_are_the_same_bytes(photo, heat, tmp_path):
    contents = []
    for _ in range(2):
        figure = figures.panels(photo, [heat])
        png = figures.save(figure, "one", "What one sees. Weights: tiny.", folder=tmp_path)
        contents.append((png.read_bytes(), png.with_suffix(".pdf").read_bytes()))
    assert contents[0] == contents[1]
    with Image.open(png) as opened:
        assert opened.width > 300
        assert opened.info["Description"] == "What one sees. Weights: tiny."
    assert {p.name for p in tmp_path.iterdir()} == {"one.png", "one.pdf"}, "no index"


def test_saved_pictures_have_few_shades_and_the_pdf_backend_stays_as_it_was(photo, tmp_path):
    draw = RendererPdf.draw_image
    figure = figures.show_photo(photo).figure
    sizes = []
    for shades in (1, files.SHADES):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "SHADES", shades)
            png = figures.save(figure, f"in_{shades}", "What.", folder=tmp_path)
        sizes.append((png.stat().st_size, png.with_suffix(".pdf").stat().st_size))
    assert all(light < full for full, light in zip(*sizes, strict=True))
    with Image.open(png) as opened:
        assert len(np.unique(np.asarray(opened))) <= 44
        assert opened.info["Description"] == "What."
    assert RendererPdf.draw_image is draw


def test_lossless_figures_keep_every_shade_at_300_dpi(tmp_path, monkeypatch):
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2).repeat(64, 0)
    figure = figures.show_photo(ramp).figure
    images = {}

    def kept(self, gc, x, y, im, transform=None):
        images.setdefault("shades", set()).update(np.unique(im[..., 0]).tolist())

    with monkeypatch.context() as patch:
        patch.setattr(RendererPdf, "draw_image", kept)
        png = figures.save(figure, "ramp", "What.", folder=tmp_path, lossless=True)
    with Image.open(png) as opened:
        assert len(np.unique(np.asarray(opened))) == 256
        assert round(opened.info["dpi"][0]) == 300
        assert opened.info["Description"] == "What."
        assert abs(opened.width - 300 * figure.get_figwidth()) < 0.4 * opened.width
    assert len(images["shades"]) > 200, "nor are photos in the PDF posterised"
    monkeypatch.setenv("GSCAM_LOSSLESS", "1")
    again = figures.save(figure, "again", "What.", folder=tmp_path)
    assert again.read_bytes() == png.read_bytes()
    light = figures.save(figure, "light", "What.", folder=tmp_path, dpi=300, lossless=False)
    with Image.open(light) as opened:
        assert len(np.unique(np.asarray(opened))) <= 44


def test_a_reader_saves_beside_the_shipped_figures(monkeypatch, tmp_path):
    shipped = Path(figures.__file__).resolve().parents[2] / "figures"
    monkeypatch.delenv("GSCAM_FIGURES", raising=False)
    assert files._folder() == shipped / "mine"
    assert "/figures/mine/" in (shipped.parent / ".gitignore").read_text().splitlines()
    monkeypatch.setenv("GSCAM_FIGURES", str(tmp_path))
    assert files._folder() == tmp_path


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
    texts = [text for ax in figure.axes for text in ax.texts if text.get_text().strip()]
    assert [t.get_text() for t in texts] == ["a cat\nlogit 20.0", "IoU 0.83", "IoU 0.00"]
    assert [t.get_weight() for t in texts] == ["normal", "bold", "normal"]
    assert len(figure.axes[1].patches) == 4  # truth and box, each with its rim
    assert len(figure.axes[2].patches) == 2
    assert len(figure.axes) == 4  # with the colour bar


def test_gallery_wraps_and_greys_the_controls(photo, heat):
    center = replace(heat, method="center", title="Centre")
    figure = figures.gallery(
        [(photo, [heat, heat, center]), (photo, [heat, replace(center, logit=1.0)])],
        [[(30, 10, 50, 20)], []],
        [[(30, 10, 50, 20), None, None], [None, None]],
        notes=[["IoU 1.00", "", ""], ["", ""]],
        columns=3,
    )
    shown = [ax for ax in figure.axes if ax.images]
    titles = ["“a cat”", "gScoreCAM", "gScoreCAM", "Centre", "“a cat”", "gScoreCAM", "Centre"]
    assert [ax.get_title(loc="left") or ax.get_title() for ax in shown] == titles
    assert len(figure.axes) == 10  # with the colour bar
    colors = {t.get_text(): t.get_color() for ax in shown for t in ax.findobj(mpl.text.Text)}
    assert colors["Centre"] != colors["gScoreCAM"]
    assert len(shown[1].patches) == 4  # truth and box, each with its rim
    assert len(shown[5].patches) == 0
    below = ["".join(t.get_text() for t in ax.texts) for ax in shown]
    assert below == ["logit 20.0", "IoU 1.00", "", "", "logit 20.0", "", "logit 1.0"]


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


def test_a_picture_of_a_clip_says_what_it_is_of():
    photo, rng = np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0)
    figure = gs.figures.towers(
        photo, rng.random((3, 7, 7)), "an apple", -1.25, count=1024, title="A CLIP",
        embeddings=[rng.normal(size=32), rng.normal(size=32)],
    )  # fmt: skip
    said = "\n".join(text.get_text() for ax in figure.axes for text in ax.texts)
    for part in ("“an apple”", "logit −1.2", "1,024 channels of 7 × 7 cells", "A CLIP"):
        assert part in said

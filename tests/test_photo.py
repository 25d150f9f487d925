"""photo.py: photos of every kind, and how a photo and the input map to each other, and back."""

import struct
import tracemalloc
import zlib

import numpy as np
import open_clip
import PIL
import pytest
import torch
from conftest import tiny_clip
from PIL import Image, ImageDraw

import gscam_lib as gs
from gscam_lib.datasets.placement import header
from gscam_lib.explorer.photos import uploaded
from gscam_lib.model.photo import Geometry, Preprocessing, load_photo, photo_hash, preprocessing_of

FITS = ("squash", "crop", "pad")
PHOTOS = {
    "tall": (90, 400),
    "wide": (640, 150),
    "square": (200, 200),
    "tiny": (5, 3),
    "dot": (1, 1),
}
INPUTS = ((224, 224), (64, 96))


def grey_photo(mode, value):
    return Image.new(mode, (6, 4), value)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (grey_photo("L", 100), (100, 100, 100)),
        (grey_photo("RGBA", (10, 20, 30, 0)), (255, 255, 255)),
        (grey_photo("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (grey_photo("LA", (50, 255)), (50, 50, 50)),
        (grey_photo("1", 1), (255, 255, 255)),
        (Image.fromarray(np.full((4, 6), 257 * 80, np.uint16)), (80, 80, 80)),
        (grey_photo("I", 257 * 80), (80, 80, 80)),
        (grey_photo("P", 0).convert("RGB").quantize(4), (0, 0, 0)),
        (np.full((4, 6, 3), 7, np.uint8), (7, 7, 7)),
    ],
)
def test_photos_of_every_mode_become_rgb(image, expected):
    photo = load_photo(image)
    assert photo.mode == "RGB"
    assert photo.size == (6, 4)
    assert photo.getpixel((3, 2)) == expected


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to view
    image.save(tmp_path / "turned.png", exif=exif)
    photo = load_photo(tmp_path / "turned.png")
    assert photo.size == (4, 8)
    assert photo.getpixel((3, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 3), float),
        np.zeros((0, 6, 3), np.uint8),
        Image.new("F", (4, 4)),
        Image.new("RGB", (0, 4)),
        3,
        None,
    ],
)
def test_what_is_no_photo_is_refused(bad):
    with pytest.raises(ValueError, match=r"Got"):
        load_photo(bad)


def test_a_tilde_is_a_home_or_the_beginning_of_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    grey_photo("L", 10).save("home/a.png")
    grey_photo("L", 20).save("~nobodyzz.png")
    assert load_photo("~/a.png").getpixel((0, 0)) == (10, 10, 10)
    assert load_photo("~nobodyzz.png").getpixel((0, 0)) == (20, 20, 20)
    with pytest.raises(FileNotFoundError, match="~nobodyzz/x"):
        load_photo("~nobodyzz/x.png")


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        load_photo(tmp_path / "nowhere.jpg")
    broken = tmp_path / "broken.jpg"
    Image.new("RGB", (300, 300)).save(broken)
    broken.write_bytes(broken.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        load_photo(broken)
    Image.new("RGB", (300, 300)).save(broken)
    broken.write_bytes(broken.read_bytes()[:-300])  # its header is whole
    with Image.open(broken) as opened, pytest.raises(ValueError, match=r"broken\.jpg cannot be"):
        load_photo(opened)
    broken.write_text("not a photo")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        load_photo(broken)
    with pytest.raises(FileNotFoundError, match="No photo at xxx"):
        load_photo("x" * 5000)


def tiff(*, kind):
    """A TIFF of one grey pixel whose width is a number of this kind: 3, a short; 11, a float."""
    width = struct.pack("<I", 1) if kind == 3 else struct.pack("<f", 1.0)
    tags = [(257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    rows = [struct.pack("<HHI", 256, kind, 1) + width]
    rows += [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    return (
        b"II*\0" + struct.pack("<II", 12, 0x64) + struct.pack("<H", 9) + b"".join(rows) + bytes(4)
    )


PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    "content",
    [tiff(kind=11), PNG + b"\0\0\0\4IHDR" + bytes(8), PNG + bytes(30), b"", b"BM" + bytes(60)],
)
def test_whatever_breaks_a_decoder_names_the_file(tmp_path, content):
    path = tmp_path / "odd.img"
    path.write_bytes(tiff(kind=3))
    assert load_photo(path).getpixel((0, 0)) == (0x64,) * 3
    path.write_bytes(content)
    if content == tiff(kind=11) and int(PIL.__version__.split(".")[0]) < 11:
        assert load_photo(path).getpixel((0, 0)) == (0x64,) * 3  # it took 1.0 for 1, rightly
        return
    with pytest.raises(ValueError, match=r"odd\.img cannot be read as a photo"):
        load_photo(path)
    with pytest.raises(ValueError, match=r"odd\.img cannot be read as a photo"):
        uploaded("odd.img", content)
    with pytest.raises(ValueError, match=r"odd\.img cannot be read as a photo"):
        header(path)


def test_a_bomb_is_refused_with_advice(tmp_path, monkeypatch):
    Image.new("RGB", (200, 200)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="too large"):
        load_photo(tmp_path / "huge.png")


def test_to_photo_equals_torch_bilinear():
    small = np.random.default_rng(0).random((7, 5), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None, None], (40, 70), mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(Geometry(70, 40, 64).to_photo(small), expected, atol=1e-6)


@pytest.mark.parametrize("values", [1023, 4095, 16383])
def test_grey_of_fewer_bits_than_its_file_is_scaled_by_them(values):
    grey = np.linspace(0, values, 256).round().astype(np.uint16).reshape(16, 16)
    with pytest.warns(UserWarning, match=rf"end at {values}, so that its 16-bit grey is read as"):
        found = np.asarray(load_photo(Image.fromarray(grey)))[..., 0].ravel()
    np.testing.assert_allclose(found, np.arange(256), atol=1)


@pytest.mark.parametrize(("low", "high"), [(0, 1_000_000), (-1000, 1000), (0, 65536)])
def test_grey_that_does_not_say_what_is_white_is_refused(low, high):
    ramp = np.linspace(low, high, 256).round().astype(np.int32).reshape(16, 16)
    with pytest.raises(ValueError, match=rf"from {low} to {high}; expected 0 to 65535"):
        load_photo(Image.fromarray(ramp))


def test_transparency_of_16_bit_grey_is_laid_on_white(tmp_path):
    def chunk(kind, data):
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    row = zlib.compress(b"\0" + struct.pack(">3H", 0, 30_000, 65_535))
    form, clear = struct.pack(">IIBBBBB", 3, 1, 16, 0, 0, 0, 0), struct.pack(">H", 30_000)
    parts = ((b"IHDR", form), (b"tRNS", clear), (b"IDAT", row), (b"IEND", b""))
    path = tmp_path / "clear.png"
    path.write_bytes(PNG + b"".join(chunk(*part) for part in parts))
    assert np.asarray(load_photo(path))[0, :, 0].tolist() == [0, 255, 255]


def test_loading_and_hashing_a_large_photo_make_no_second_copy(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), np.uint8)
    photo = load_photo(noise)
    assert photo_hash(photo) == photo_hash(Image.fromarray(noise))
    assert photo_hash(photo) != photo_hash(Image.fromarray(noise[::-1]))
    tracemalloc.start()
    photo_hash(photo)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < noise.nbytes / 2


def config(size, fit, interpolation="bicubic"):
    modes = {"squash": "squash", "crop": "shortest", "pad": "longest"}
    return {"size": size, "resize_mode": modes[fit], "interpolation": interpolation,
            "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25), "fill_color": 40}  # fmt: skip


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(224, 224), (64, 96)])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kind", ["tall", "wide", "square", "tiny"])
def test_pixels_are_those_of_open_clip(kind, fit, size, interpolation):
    if fit == "crop" and size[0] != size[1] and interpolation == "bilinear":
        pytest.skip("open_clip itself takes bicubic here, whatever it is told")
    given = config(size, fit, interpolation)
    width, height = PHOTOS[kind]
    noise = np.random.default_rng(1).integers(
        0, 255, (height // 3 + 2, width // 3 + 2, 3), np.uint8
    )
    photo = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**given), is_train=False
    )
    expected = transform(photo).numpy()
    found = preprocessing_of(given, "model")(photo)
    std = np.array(given["std"])[:, None, None]
    np.testing.assert_allclose(found * std, expected * std, atol=2.01 / 255)


def hot_place(kind, fit, size, interpolation="bicubic"):
    """Distance, in the photo's pixels, of a hot place from where it comes back; and a cell's size.

    The photo is black but for a disc in what is seen of it; the map is the input's brightness, in
    cells of 2 pixels, and its hottest place is the middle of mass.
    """
    width, height = PHOTOS[kind]
    how = preprocessing_of(config(size, fit, interpolation) | {"fill_color": 0}, "model")
    scale = max(1, 1600 // max(width, height))  # a disc needs pixels; the geometry has none
    photo = Image.new("RGB", (width * scale, height * scale))
    geometry = how.geometry(photo)
    x0, y0, x1, y1 = geometry.seen
    x, y, radius = x0 + 0.62 * (x1 - x0), y0 + 0.41 * (y1 - y0), 0.12 * min(x1 - x0, y1 - y0)
    ImageDraw.Draw(photo).ellipse((x - radius, y - radius, x + radius, y + radius), fill="white")
    seen = np.asarray(geometry.to_input(photo).convert("L"), float)
    cells = seen.reshape(size[0] // 2, 2, size[1] // 2, 2).mean((1, 3))
    back = geometry.to_photo(cells)
    assert back.shape == (photo.height, photo.width)
    rows, columns = np.mgrid[0 : photo.height, 0 : photo.width] + 0.5
    found = (back * columns).sum() / back.sum(), (back * rows).sum() / back.sum()
    left, top, right, bottom = geometry.placed
    cell = 2 * photo.width / (right - left), 2 * photo.height / (bottom - top)
    return [abs(a - b) for a, b in zip(found, (x, y), strict=True)], cell


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", INPUTS)
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kind", PHOTOS)
def test_a_hot_place_comes_back_where_it_was(kind, fit, size, interpolation):
    distance, cell = hot_place(kind, fit, size, interpolation)
    assert all(d <= 0.2 * c for d, c in zip(distance, cell, strict=True)), (distance, cell)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kind", PHOTOS)
def test_a_ramp_of_the_photo_comes_back_exactly(kind, fit):
    """Where a linear map is seen, its way through input and back is the identity, to 1e-3 px."""
    width, height = PHOTOS[kind]
    geometry = Geometry(width, height, (224, 224), fit)
    x0, _, x1, _ = geometry.placed
    at_input = (np.arange(224) + 0.5 - x0) * width / (x1 - x0)  # the photo's x, at each column
    back = geometry.to_photo(np.tile(at_input, (224, 1)).astype(np.float32))
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    left, top, right, bottom = geometry.seen
    margin = 1.5 * max(1, width / (x1 - x0))  # at the edge the last column goes on
    inner = (x > left + margin) & (x < right - margin)
    rows = (y > top) & (y < bottom)
    found = back[rows][:, inner]
    np.testing.assert_allclose(found, np.tile(x[inner], (len(found), 1)), atol=1e-3 * max(1, width))


def test_what_was_cut_off_is_not_hot():
    geometry = Geometry(300, 100, (64, 64), "crop")
    back = geometry.to_photo(np.ones((4, 4), np.float32))
    assert (back[:, 100:200] == 1).all()
    assert (back[:, :99] == 0).all()
    assert (back[:, 201:] == 0).all()
    assert (Geometry(300, 100, (64, 64), "pad").to_photo(np.ones((4, 4))) == 1).all()


def test_which_preprocessing_ran_is_said_and_chosen(photo):
    model = tiny_clip("resnet")
    assert str(model.preprocessing) == "squash bicubic 96x96"
    assert str(model.trace(photo, preprocess="model").preprocessing) == "crop bicubic 96x96"
    paper = model.trace(photo, preprocess="paper")
    assert str(paper.preprocessing) == "squash bilinear 96x96"
    squashed = Image.fromarray(photo).resize((96, 96), Image.Resampling.BILINEAR)
    expected = Preprocessing((96, 96))(squashed)
    np.testing.assert_allclose(paper.pixels, expected, atol=1e-6)
    own = gs.Model(model.network, model.tokenizer, preprocess="model")
    assert own.trace(photo).key != model.trace(photo).key
    heat = gs.heatmap(own.trace(photo), "a cat", k=5)
    assert heat.values.shape == photo.shape[:2]
    assert (heat.values[:, :14] == 0).all()  # 40 of 70 columns are seen
    for bad in ("crop", 3):
        if bad is not None:
            with pytest.raises(ValueError, match=r"expected one of squash, model, paper"):
                gs.Model(model.network, model.tokenizer, preprocess=bad)
    with pytest.raises(ValueError, match="expected one of squash, model, paper"):
        model.trace(photo, preprocess="adapt")
    with pytest.raises(ValueError, match="this model takes 96 × 96"):
        model.trace(photo, preprocess=Preprocessing((64, 64)))


def test_an_input_that_is_not_square(photo):
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": (48, 96)}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    network = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text).eval()
    model = gs.Model(network, open_clip.SimpleTokenizer(), name="wide")
    trace = model.trace(photo)
    assert trace.activations.shape == (32, 3, 6)
    assert trace.masks([0, 1]).shape == (2, 48, 96)
    few = {"rise": {"masks": 8}, "sscam": {"samples": 1}, "groupcam": {"groups": 3}}
    for name, method in gs.METHODS.items():
        if "vit" in method.towers and name not in ("rise", "sscam"):
            options = few.get(name, {}) | ({"k": 3} if "k" in method.options else {})
            assert gs.heatmap(trace, "a cat", name, **options).values.shape == (40, 70), name

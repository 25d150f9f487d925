"""The explorer, its engine, worker, pages, composer and server, without a browser."""

import io
import json
import re
import secrets
import subprocess
import threading
import time

import numpy as np
import pytest
from PIL import Image

import gscam_lib as gs
from gscam_lib.explorer import app, attack_composer, explore, maps
from gscam_lib.explorer import engine as engine_module
from gscam_lib.explorer.app import without_paths
from gscam_lib.explorer.controls import ks, numbered
from gscam_lib.explorer.engine import KEPT_EACH, MASK, SEARCHED, Engine
from gscam_lib.explorer.page import make_page, stretch
from gscam_lib.explorer.panel import Explorer, split_prompts
from gscam_lib.explorer.photos import LONGEST, Photo, choose, uploaded
from gscam_lib.explorer.pictures import overlay
from gscam_lib.explorer.request import MOST_PROMPTS, Cancelled, Request
from gscam_lib.explorer.server import RemoteEngine, Server
from gscam_lib.explorer.worker import TimeLimitError, Worker
from gscam_lib.model.photo import Geometry

WAIT = 60
TRUE = (200.0, 200.0, 800.0, 600.0)  # of a photo of 2,048 × 1,536 pixels


@pytest.fixture
def explorer(resnet, photo):
    shown = explore(resnet, {"blobs": photo}, prompts="an apple")
    assert shown.wait(WAIT)
    yield shown
    shown.close()


@pytest.fixture
def engine(resnet, photo):
    return Engine(resnet, choose({"blobs": photo}))


@pytest.fixture
def large(tmp_path):
    """A photo that is reduced to be shown, with a true box."""
    path = tmp_path / "big.png"
    image = Image.new("RGB", (2048, 1536), "white")
    image.paste("red", tuple(map(int, TRUE)))
    image.save(path)
    return gs.Example(path, "a cat", (TRUE,), "cat", "1", "mine")


def go(explorer):
    assert explorer.wait(WAIT)
    assert explorer.last_error is None
    return explorer.value


def never():
    return False


def nothing(*_):
    return None


def _png(width, height, color="green", mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, (width, height), color).save(stream, "PNG")
    return stream.getvalue()


# ---------------------------------------------------------------- maps and what is said of them


def test_the_text_is_what_gs_heatmap_says(explorer, resnet, photo):
    heat = gs.heatmap(resnet.trace(photo), "an apple")
    (found,) = go(explorer)["findings"]
    assert found["box"] == gs.heatmap_to_box(heat)
    assert found["logit"] == pytest.approx(heat.logit, abs=1e-4)
    assert found["k"] == heat.k == resnet.default_k
    assert f"logit {heat.logit:.2f}" in explorer.shown["text"]


def test_k_moves_the_map_and_costs_nothing_when_warm(explorer, resnet):
    explorer.move(k=resnet.channels)
    go(explorer)
    before = explorer.shown["panels"][0]["map"]
    explorer.move(k=1)
    state = go(explorer)
    assert explorer.shown["panels"][0]["map"] != before
    assert "k = 1 " in explorer.shown["panels"][0]["note"]
    assert state["passes"] == 0


def test_the_map_on_the_screen_is_that_of_the_library(explorer, resnet, photo):
    (panel,) = explorer.shown["panels"]
    shown = np.frombuffer(panel["map"], np.uint8).reshape(panel["shape"]) / 255
    heat = gs.heatmap(resnet.trace(photo), "an apple")
    np.testing.assert_allclose(shown, heat.values, atol=1 / 255)


def test_prompts_side_by_side_with_probabilities(explorer, resnet, photo):
    explorer.move(prompts="an apple; a cup\na dog; a cup")
    found = go(explorer)["findings"]
    assert [f["prompt"] for f in found] == ["an apple", "a cup", "a dog"]
    logits = resnet.trace(photo).logits(["an apple", "a cup", "a dog"])
    shares = [f["probability"] for f in found]
    np.testing.assert_allclose(shares, logits.softmax(0), atol=1e-5)
    assert len(explorer.shown["panels"]) == 3


def test_each_prompts_words_stand_once_below_its_first_map(explorer, resnet, photo):
    explorer.move(prompts="a red apple; cup", compare="k")
    state = go(explorer)
    table = gs.words(resnet.trace(photo), "a red apple").table
    shown = [panel["words"] for panel in explorer.shown["panels"]]
    assert [word for word, _ in shown[0]] == ["a", "red", "apple"]
    np.testing.assert_allclose([v for _, v in shown[0]], [v for _, v in table], atol=1e-4)
    assert [list(words) for words in shown[1:]] == [[], [], []]  # again, and a single word
    assert state["words"]["a red apple"] == list(shown[0])
    json.dumps(state)


@pytest.mark.parametrize(("how", "count"), [("method", 2), ("k", 2), ("none", 1)])
def test_comparison(explorer, how, count):
    explorer.move(compare=how)
    found = go(explorer)["findings"]
    assert len(found) == count
    if how == "method":
        assert found[1]["method"] == "gradcam"
    if how == "k":
        assert found[1]["k"] == 1


def test_threshold_and_contour_are_those_of_the_library(explorer, resnet, photo):
    explorer.move(threshold=0.8, contour=True)
    (found,) = go(explorer)["findings"]
    heat = gs.heatmap(resnet.trace(photo), "an apple")
    box = gs.heatmap_to_box(heat, threshold=0.8)
    assert found["box"] == box
    xs = [x for line in explorer.shown["panels"][0]["contour"] for x in line[::2]]
    assert min(xs) <= box[0] + 0.5
    assert max(xs) >= box[2] - 1.5


def test_what_is_only_drawn_asks_for_nothing(explorer, monkeypatch):
    monkeypatch.setattr(explorer, "refresh", lambda: pytest.fail("asked"))
    explorer.move(opacity=0.3, box=False, beside=True)
    assert explorer.value["opacity"] == 0.3
    assert explorer.request().box is False


def test_channels_are_ranked_and_show_their_masks(explorer, resnet, photo):
    ranked = resnet.trace(photo).ranking("an apple")[:12].tolist()
    assert go(explorer)["channels"] == ranked
    explorer.press("channel", channel=ranked[2])
    go(explorer)
    chosen = explorer.strip["chosen"]
    assert Image.open(io.BytesIO(chosen["mask"]["png"])).width == MASK
    assert chosen["number"] == ranked[2]
    explorer.press("channel", channel=ranked[2])
    go(explorer)
    assert explorer.strip["chosen"] == {}


def test_a_channel_shows_the_photos_in_which_it_is_strongest(resnet, photo):
    photos = {f"turned {i}": np.rot90(photo, i).copy() for i in range(4)}
    shown = explore(resnet, photos, prompts="a cup")
    channel = go(shown)["channels"][0]
    shown.press("channel", channel=channel)
    go(shown)
    shown.press("strongest")
    go(shown)
    peaks = {n: float(resnet.trace(p).activations[channel].max()) for n, p in photos.items()}
    best = sorted(peaks, key=lambda name: -peaks[name])
    notes = [row["note"] for row in shown.strip["chosen"]["strongest"]]
    assert [note.split(": ")[1].split(",")[0] for note in notes] == best
    assert f"{peaks[best[0]]:.2f}" in notes[0]
    assert "of 4" in notes[0]
    shown.close()


def test_a_search_for_strongest_pictures_is_bounded_and_stops(resnet, photo):
    photos = {str(i): photo for i in range(SEARCHED + 8)}
    engine = Engine(resnet, choose(photos))
    request = Request("given-0", ("a cup",), channel=0, strongest=True)
    engine.run(request, never, nothing)
    assert len(engine._peaks) == SEARCHED
    engine._peaks.clear()
    with pytest.raises(Cancelled):
        engine.run(request, lambda: len(engine._peaks) >= 3, nothing)
    assert len(engine._peaks) == 3


# ---------------------------------------------------------------- the photo's own pixels


def test_boxes_of_large_photos_are_in_their_own_pixels(resnet, large):
    engine = Engine(resnet, choose([large]))
    seen, reports = engine._seen("given-0"), []
    assert max(seen.trace.photo.size) == LONGEST
    request = Request("given-0", ("a cat",), truth=True)
    answer = engine.run(request, never, lambda *r: reports.append(r))
    heat = gs.heatmap(resnet.trace(large.image), "a cat")
    (found,) = answer.findings
    assert found.logit == pytest.approx(heat.logit, abs=1e-4)  # the network sees the whole photo
    assert np.abs(np.subtract(found.box, gs.heatmap_to_box(heat))).max() <= 4
    assert "box {}, {} to {}, {}".format(*found.box) in answer.text()
    assert answer.view.size == (2048, 1536)
    assert answer.view.boxes == (TRUE,)
    page = make_page(seen.trace, request, engine.photo("given-0"), size=seen.size, model="m")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert data["size"] == [2048, 1536]
    assert data["truth"] == [list(TRUE)]


def test_true_boxes_of_large_photos_are_drawn_where_the_thing_is(resnet, large):
    engine = Engine(resnet, choose([large]))
    request = Request("given-0", ("a cat",), "center", truth=True, box=False, opacity=0)
    drawn = Image.open(io.BytesIO(engine.take("figure", request, never, nothing))).convert("RGB")
    pixels = np.asarray(drawn).astype(int)[60:]  # below the caption
    dark = np.argwhere(pixels.sum(2) < 40)
    red = np.argwhere(pixels[..., 0] > pixels[..., 1] + 20)
    assert np.abs(dark.min(0) - red.min(0)).max() <= 6
    assert np.abs(dark.max(0) - red.max(0)).max() <= 6


def test_true_boxes_of_a_turned_photo_are_turned_with_it(resnet, tmp_path):
    """640 × 428 as stored, a box along its upper edge; seen upright, it is along the right one."""
    stored = Image.new("RGB", (640, 428), "white")
    stored.paste("red", (0, 0, 640, 40))
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(tmp_path / "phone.png", exif=exif)
    about = (tmp_path / "phone.png", "a cat", ((0, 0, 640, 40),), "cat", "1", "mine")
    engine = explore(resnet, gs.Example(*about, photo_size=(640, 428)))._engine
    answer = engine.run(Request("given-0", ("a cat",), "center"), never, nothing)
    assert answer.view.size == (428, 640)
    assert answer.view.boxes == ((388, 0, 428, 640),)
    drawn = np.asarray(engine.photo("given-0").open())
    assert (drawn[0:640, 388:428] == (255, 0, 0)).all()
    with pytest.raises(ValueError, match=r"phone\.png: the truth is of 800 × 600 pixels"):
        choose([gs.Example(*about, photo_size=(800, 600))])
    with pytest.raises(ValueError, match=r"\(700, 500, 800, 600\) of 'cat' has no area inside"):
        choose(gs.Example(*about[:2], ((700, 500, 800, 600),), *about[3:]))


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(50, 31), (31, 50)])
def test_a_page_brings_maps_to_the_photo_as_the_library_does(fit, size):
    geometry = Geometry(*size, (24, 24), fit)
    values = np.random.default_rng(0).random((6, 5)).astype(np.float32)
    down, across = stretch(geometry, 6, 5)
    np.testing.assert_allclose(down @ values @ across.T, geometry.to_photo(values), atol=1e-6)


@pytest.mark.parametrize("compare", ["none", "method", "k"])
def test_code_makes_what_is_on_the_screen(resnet, photo, monkeypatch, compare):
    example = gs.Example(Image.fromarray(photo), "an apple", ((5, 5, 30, 25),), "apple", "0", "t")
    explorer = explore(resnet, [example], prompts="an apple; a cup")
    explorer.move(compare=compare, threshold=0.6, opacity=0.5, contour=True, truth=True)
    go(explorer)
    monkeypatch.setattr(gs, "load_model", lambda name: resnet)
    displayed = []
    names = {"image": example.image, "display": lambda *pictures: displayed.extend(pictures)}
    exec(explorer.code(), names)
    assert names["boxes"] == [f["box"] for f in explorer.value["findings"]]
    assert len(displayed) == len(explorer.shown["panels"])
    for heat, panel in zip(names["heats"], explorer.shown["panels"], strict=True):
        shown = np.frombuffer(panel["map"], np.uint8).reshape(panel["shape"]) / 255
        np.testing.assert_allclose(shown, heat.values, atol=2 / 255)
    explorer.close()


def test_the_browser_mixes_as_figures_do():
    """`overlay` in view.js is written by hand; here its formula, there the browser's pixels."""
    from gscam_lib.explorer.controls import read

    formula = re.search(r"alpha = opacity \* ([^;]+);", read("view.js"))[1]
    photo = np.full((1, 5, 3), 100, np.uint8)
    values = np.linspace(0, 1, 5, dtype=np.float32)[None]
    alpha = 0.75 * eval(formula, {"v": values[..., None]})
    from matplotlib import colormaps

    color = 255 * colormaps["inferno"](np.minimum(255, (values * 256).astype(int)))[..., :3]
    mixed = (1 - alpha) * photo + alpha * color
    assert np.abs(mixed - overlay(photo, values, opacity=0.75)).max() <= 1


# ---------------------------------------------------------------- what it begins with


def test_it_begins_with_prompts_that_the_model_knows_and_photos_it_is_for():
    model = gs.load_model("photo-lite")
    about = Engine(model, choose(drawn=False)).about()
    assert all(key.startswith("photo-") for key in about.photos)
    for prompts in about.prompts.values():
        assert 2 <= len(prompts) <= 3
        assert all(model.knows(prompt).known for prompt in prompts)
    assert next(iter(about.prompts.values()))[0] == "a space shuttle"


def test_names_of_photos_are_unique():
    names = [photo.name for photo in choose(drawn=True).values()]
    assert len(set(names)) == len(names)
    assert numbered({"a": "x", "b": "x", "c": "x (2)"}, {"y"}) == {
        "a": "x", "b": "x (2)", "c": "x (2) (2)",
    }  # fmt: skip


def test_a_photo_brings_its_prompts_until_some_are_typed(resnet, photo):
    examples = [
        gs.Example(Image.fromarray(photo), prompt, (), "thing", str(i), "t")
        for i, prompt in enumerate(["an apple", "a cup"])
    ]
    shown = explore(resnet, examples)
    assert split_prompts(shown.asked["prompts"])[0] == "an apple"
    shown.move(photo="given-1")
    assert split_prompts(shown.asked["prompts"])[0] == "a cup"
    shown.move(prompts="a dog")
    shown.move(photo="given-0")
    assert shown.asked["prompts"] == "a dog"
    go(shown)
    shown.close()


# ---------------------------------------------------------------- errors, limits, time


def test_errors_are_shown_in_place_and_go_away(explorer):
    kept = explorer.shown
    explorer.move(prompts=" ; ")
    assert "no prompt" in explorer.last_error
    assert "no prompt" in explorer.said["error"]
    assert explorer.shown == kept
    explorer.move(prompts="a cup")
    go(explorer)
    assert explorer.said["error"] == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": "; ".join(map(str, range(MOST_PROMPTS + 1)))}, "at most 12"),
        ({"prompts": "a" * 301}, "at most 12 of 300"),
        ({"k": 10**9}, "expected 1 to"),
        ({"k": "many"}, "expected a whole number"),
        ({"channel": -1}, "expected 0 to"),
        ({"photo": "../../etc/passwd"}, "no longer kept"),
        ({"method": "os.system"}, "the method 'os.system'"),
        ({"threshold": -3}, "threshold=-3"),
        ({"threshold": [1]}, "threshold="),
        ({"opacity": "x"}, "opacity="),
        ({"compare": "all"}, "compare="),
    ],
)
def test_what_no_control_can_ask_for_is_refused_in_words(explorer, changes, words):
    explorer._message(None, {"kind": "set", "changes": changes}, [])
    assert explorer.wait(WAIT)
    assert words in explorer.last_error
    assert explorer.said["error"]


def test_messages_of_any_form_end_in_words(explorer):
    for content in ({}, {"kind": "press", "button": "rm"}, {"kind": "set", "changes": {"x": 1}}):
        explorer.last_error = None
        explorer._message(None, content, [])
        assert explorer.last_error
    with pytest.raises(
        ValueError, match="Got nothing with the button 'upload'; it takes name, con"
    ):
        explorer.press("upload")
    with pytest.raises(ValueError, match="Got NoneType; expected the bytes"):
        explorer.press("upload", name="a.png", content=None)


def test_cancel_stops_a_long_scorecam_and_keeps_what_was_scored(resnet, photo, monkeypatch):
    engine = Engine(resnet, choose(photo))
    shown = Explorer(engine, prompts="a cup")
    shown.wait(WAIT)
    slow = type(resnet).encode_pixels

    def encode(*args, **options):
        time.sleep(0.05)
        return slow(*args, **options)

    monkeypatch.setattr(type(resnet), "encode_pixels", encode)
    shown.move(method="scorecam")
    while not shown.status["done"]:
        time.sleep(0.01)
    shown.press("cancel")
    assert shown.wait(WAIT)
    trace = engine.trace("given-0")
    assert 0 < len(trace._masked) < len(trace.activations)
    assert not shown.status["busy"]
    assert shown.last_error is None


def test_maps_sharpen_from_a_draft_and_say_so(engine, resnet, photo, monkeypatch):
    monkeypatch.setattr("gscam_lib.explorer.engine.PERIOD", 0)
    seen = []
    request = Request(next(iter(engine.photos)), ("a cup",), "scorecam")
    last = engine.run(request, never, lambda done, total, early: seen.append((total, early)))
    early = [answer.findings[0] for _, answer in seen if answer]
    assert early[0].caption.startswith("ScoreCAM, a draft, ± ")
    passes = [f.passes for f in early]
    assert passes == sorted(passes)
    assert len(set(passes)) > 2
    assert all(f" {f.passes} of {resnet.channels} passes" in f.caption for f in early[1:])
    assert all(0 < f.band <= 1 and f.values != last.findings[0].values for f in early[:3])
    assert all(total <= last.passes for total, _ in seen)
    (done,) = last.findings
    assert (done.caption, done.band, done.of) == ("ScoreCAM", 0, None)
    whole = gs.heatmap(resnet.trace(photo), "a cup", "scorecam")
    values = np.frombuffer(done.values, np.uint8).reshape(done.shape) / 255
    np.testing.assert_allclose(values, whole.values, atol=1.5 / 255)


def test_quality_is_a_share_of_the_passes_and_the_map_that_of_a_budget(explorer, resnet, photo):
    explorer.move(prompts="a dog", k=100)
    full = go(explorer)["passes"]
    explorer.move(prompts="a boat", photo=explorer.asked["photo"], quality=0.1)
    state = go(explorer)
    heat = gs.heatmap(resnet.trace(photo), "a boat", k=100, budget=10)
    (panel,) = explorer.shown["panels"]
    shown = np.frombuffer(panel["map"], np.uint8).reshape(panel["shape"]) / 255
    np.testing.assert_allclose(shown, heat.values, atol=1.5 / 255)
    assert f"k = 100, 10 of 100 passes, ± {heat.band:.2f}" in panel["note"]
    assert state["passes"] <= 10 < full
    assert "gs.heatmap(trace, prompt, 'gscorecam', k=100, budget=10)" in explorer.code()
    explorer.move(method="gradcam")
    go(explorer)
    assert "quality" in explorer.off
    explorer.move(quality=0)
    explorer.wait(WAIT)
    assert "expected a share above 0" in explorer.last_error


def test_a_newer_move_stops_what_is_stale_within_one_batch(engine, monkeypatch):
    batches, embed = [], type(engine.model).encode_pixels

    def encode(self, pixels, *args, **options):
        batches.append(len(pixels))
        return embed(self, pixels, *args, **options)

    monkeypatch.setattr(type(engine.model), "encode_pixels", encode)
    request = Request(next(iter(engine.photos)), ("a cup",), "scorecam")
    with pytest.raises(Cancelled):
        engine.run(request, lambda: len(batches) >= 3, nothing)
    assert len(batches) <= 3
    assert max(batches) <= maps.STEP


@pytest.mark.parametrize("method", ["gscorecam", "gradcam"])
def test_time_limit_also_between_maps_of_few_passes(resnet, photo, monkeypatch, method):
    """200 prompts with Grad-CAM took 36 s under a limit of 1 s."""
    engine = Engine(resnet, choose(photo), limit_s=0.3)
    slow = maps.heatmap

    def heatmap(*args, **options):
        time.sleep(0.11)
        return slow(*args, **options)

    monkeypatch.setattr(maps, "heatmap", heatmap)
    monkeypatch.setattr("gscam_lib.explorer.engine.PERIOD", 0)
    parts = []
    request = Request("given-0", tuple(f"a thing {i}" for i in range(9)), method, k=1)
    with pytest.raises(TimeLimitError, match=r"longer than 0\.3 s"):
        engine.run(request, never, lambda done, total, early: parts.append(early))
    assert 0 < len(engine._maps) < 9
    assert any(parts)  # what was there is shown
    assert not resnet.network.visual._forward_pre_hooks
    assert engine.lock.acquire(timeout=0)
    engine.lock.release()


def test_cancel_also_between_maps_of_few_passes(engine):
    asked = tuple(f"a thing {i}" for i in range(9))
    with pytest.raises(Cancelled):
        engine.run(Request("given-0", asked, "gradcam"), lambda: len(engine._maps) >= 2, nothing)
    assert len(engine._maps) == 2


def test_others_have_their_turn_between_two_batches(resnet, photo):
    engine, order = Engine(resnet, choose(photo)), []
    began = threading.Event()

    def long():
        engine.run(Request("given-0", ("a cup",), "scorecam"), never, lambda *_: began.set())
        order.append("long")

    thread = threading.Thread(target=long)
    thread.start()
    began.wait(WAIT)
    engine.run(Request("given-0", ("a dog",), "center"), never, nothing)
    order.append("short")
    thread.join(WAIT)
    assert order == ["short", "long"]


def test_stop_before_the_start(engine):
    with pytest.raises(Cancelled):
        engine.run(Request("given-0", ("a cup",)), lambda: True, nothing)


def test_the_newest_job_wins():
    failures, done, started = [], [], threading.Event()
    worker = Worker(failures.append)

    def old(stop):
        started.set()
        while not stop():
            time.sleep(0.001)
        raise Cancelled

    worker.submit(old)
    started.wait(WAIT)
    for i in range(50):
        worker.submit(lambda stop, i=i: done.append(i))
    assert worker.wait(WAIT)
    assert done[-1] == 49
    assert failures == []

    def fails(stop):
        raise ValueError("no")

    worker.submit(fails)
    assert worker.wait(WAIT)
    assert [str(f) for f in failures] == ["no"]


def test_two_threads_may_use_one_model(resnet, photo):
    """A notebook goes on while its explorer works: hooks of one must not see the other's passes."""
    expected = gs.heatmap(resnet.trace(photo), "a dog").values
    found, wrong = [], []

    def work():
        try:
            found.extend(gs.heatmap(resnet.trace(photo), "a dog").values for _ in range(10))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert wrong == []
    assert len(found) == 30
    for values in found:
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_freed_memory_goes_back_once_nothing_is_asked(engine, monkeypatch):
    trims = []
    monkeypatch.setattr(engine_module, "_trim", lambda: trims.append(time.perf_counter()))
    monkeypatch.setattr(engine_module, "REST", 60.0)
    timers = []
    for _ in range(3):  # a drag: the timer of each but the last is called off
        engine.run(Request("given-0", ("a cup",)), never, nothing)
        timers.append(engine._rest)
    assert [timer.finished.is_set() for timer in timers] == [True, True, False]
    timers[-1].cancel()
    assert trims == []
    monkeypatch.setattr(engine_module, "REST", 0.01)
    engine.run(Request("given-0", ("a cup",)), never, nothing)
    engine._rest.join(WAIT)
    assert len(trims) == 1


# ---------------------------------------------------------------- uploads and folders


def test_upload(explorer, photo):
    stream = io.BytesIO()
    Image.fromarray(photo[:, ::-1]).save(stream, "PNG")
    for count in (1, 2):
        explorer.press("upload", name="mine.png", content=stream.getvalue() + b" " * count)
        assert go(explorer)["photo"].startswith("upload-")
    names = [name for _, name in explorer.controls[0][0]["options"]]
    assert names == ["mine.png (2)", "mine.png", "blobs"]
    good, press = explorer.asked["photo"], {"kind": "press", "button": "upload"}
    explorer._message(None, {**press, "name": "broken.png"}, [memoryview(stream.getvalue()[:60])])
    assert "broken.png cannot be read" in explorer.last_error
    assert explorer.asked["photo"] == good


def test_uploads_are_reduced_and_refused_by_size_before_they_are_decoded(monkeypatch):
    key, photo = uploaded("wide.png", _png(3000, 200))
    assert max(photo.open().size) == LONGEST
    assert photo.size == (3000, 200)
    assert key.startswith("upload-")
    small = _png(13_000, 13_000, 0, "1")  # some kB that would be half a gigabyte
    assert len(small) < 60_000
    monkeypatch.setattr(
        "gscam_lib.explorer.photos.load_photo", lambda *_: pytest.fail("it was decoded")
    )
    with pytest.raises(ValueError, match="13,000 × 13,000 pixels"):
        uploaded("bomb.png", small)


def test_a_turned_upload_keeps_its_size_upright():
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3000, 2000), "blue").save(stream, "JPEG", exif=exif)
    _, photo = uploaded("phone.jpg", stream.getvalue())
    assert photo.size == (2000, 3000)
    assert photo.open().height == LONGEST


def test_uploads_are_counted_for_each_visitor(engine):
    first = engine.add("a.png", _png(8, 8, "red"), "one")
    for i in range(KEPT_EACH):
        engine.add("b.png", _png(8, 9 + i), "two")
    assert engine.photo(first).name == "a.png"  # another's many do not push it out
    assert len(engine._uploads) == 1 + KEPT_EACH
    engine.add("c.png", _png(9, 9), "two")
    assert len(engine._uploads) == 1 + KEPT_EACH


def test_an_upload_waits_for_its_turn(engine):
    engine.lock.acquire()
    done = []
    thread = threading.Thread(target=lambda: done.append(engine.add("a.png", _png(8, 8))))
    thread.start()
    thread.join(0.3)
    assert not done
    engine.lock.release()
    thread.join(WAIT)
    assert done


def test_large_files_are_refused(resnet, photo):
    shown = Explorer(Engine(resnet, choose(photo)), prompts="a cup", upload_limit=100)
    message = {"kind": "press", "button": "upload", "name": "big.png"}
    shown._message(None, message, [memoryview(b"0" * 101)])
    assert "at most" in shown.last_error


def test_folder(explorer, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "one.png")
    explorer.move(folder=str(tmp_path))
    go(explorer)
    assert explorer.controls[0][0]["options"][0][1] == "one.png"
    for nowhere in (str(tmp_path / "none"), "~nobodyzz/x"):
        explorer._message(None, {"kind": "set", "changes": {"folder": nowhere}}, [])
        assert f"No photos in '{nowhere}'" in explorer.last_error


def test_an_address_chooses_photo_method_and_k_and_says_what_is_not_there(resnet, photo):
    engine = Engine(resnet, choose({"one": photo, "two": photo[:, ::-1].copy()}))
    preset = {"photo": "two", "method": "gradcam", "k": "7"}
    shown = Explorer(engine, prompts="a cup", preset=preset)
    asked = go(shown)
    assert (asked["photo"], asked["method"], shown.asked["k"]) == ("given-1", "gradcam", 7)
    assert 7 in [k for k, _ in next(c for c in shown.controls[1] if c["name"] == "k")["options"]]
    shown.close()
    wrong = {"photo": "<b>three", "method": "gradcam", "k": "x"}
    shown = Explorer(engine, prompts="a cup", preset=wrong)
    asked = go(shown)
    assert (asked["photo"], asked["method"]) == ("given-0", "gradcam")
    assert shown.said["notes"] == ["There is no photo “<b>three” here.", "There is no k “x” here."]
    shown.close()


# ---------------------------------------------------------------- visitors


@pytest.fixture
def visit(resnet, photo, tmp_path):
    """A folder with a photo and a broken one, served; a visitor's explorer."""
    folder = tmp_path / "secret-place"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "one.png")
    (folder / "two.png").write_bytes(b"broken")
    engine = Engine(resnet, without_paths(choose(folder)), limit_s=60, name="the model")
    key = secrets.token_bytes(16)
    server = Server(engine, str(tmp_path / "socket"), key)
    shown = Explorer(RemoteEngine(str(tmp_path / "socket"), key), prompts="a cup")
    assert shown.wait(WAIT)
    yield shown, engine, server
    shown.close()
    server.close()


def test_a_path_with_an_apostrophe_is_hidden_too(photo, tmp_path):
    folder = tmp_path / "o'secret-place"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "it's.png")
    (found,) = without_paths(choose(folder)).values()
    assert found.source == 'load_photo("it\'s.png")'


def test_a_visitor_sees_no_path_and_no_folder_field(visit):
    shown, engine, _ = visit
    go(shown)
    seen = [shown.controls, shown.asked, shown.value, shown.code(), dict(shown.look, colors=0)]
    shown.move(photo=shown.controls[0][0]["options"][1][0])
    shown.wait(WAIT)
    assert "two.png cannot be read" in shown.last_error
    engine.photos = {}
    shown._message(None, {"kind": "set", "changes": {"photo": "x"}}, [])
    seen += [shown.last_error, shown.said, shown.shown]
    assert "secret-place" not in repr(seen)
    assert "/tmp" not in repr(seen)
    assert not any(c["name"] == "folder" for group in shown.controls for c in group)
    with pytest.raises(ValueError, match="No control folder"):
        shown.move(folder="/")


def test_what_goes_wrong_at_the_engine_tells_a_visitor_nothing_of_the_machine(visit, monkeypatch):
    shown, engine, server = visit

    def fails(*_):
        raise RuntimeError("in /secret-place/model.py")

    monkeypatch.setattr(engine, "run", fails)
    shown.move(k=1)
    shown.wait(WAIT)
    assert "Something went wrong here" in shown.last_error
    assert "secret-place" not in shown.last_error
    server.close()
    shown.refresh()
    shown.wait(WAIT)
    assert shown.last_error


def test_a_path_with_a_quote_is_kept_from_visitors_too():
    path = "/private/o'neil/a.png"
    photo = Photo("a.png", None, f"load_photo({path!r})")
    assert without_paths({"a": photo})["a"].source == "load_photo('a.png')"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--upload-mb", "nan"], "--upload-mb: got 'nan'; expected a number above 0"),
        (["--seconds", "0"], "--seconds: got '0'; expected a number above 0"),
        (["--visitors", "-1"], "--visitors: got '-1'; expected a whole number from 1 on"),
        (["--images", "/nonexist"], "error: No photo at /nonexist."),
        (["--images", __file__], "test_explorer.py cannot be read as a photo"),
        (["--model", "nope"], "error: No model 'nope'"),
    ],
)
def test_the_app_refuses_at_the_start(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was served"))
    with pytest.raises(SystemExit) as left:
        app.main(arguments)
    assert left.value.code != 0
    assert words in f"{left.value.code} {capsys.readouterr().err}"


def test_uploads_of_one_visitor_are_not_anothers(visit):
    shown, *_ = visit
    key = shown._engine.add("mine.png", _png(9, 9))
    other = RemoteEngine(shown._engine._address, shown._engine._key)
    assert key not in other.about().photos
    assert shown._engine._visitor in key
    assert other._visitor not in key


def test_names_are_names_only():
    _, photo = uploaded("C:\\Users\\me\\" + "x" * 200 + ".png", _png(8, 8))
    assert "Users" not in photo.name
    assert len(photo.name) <= 80
    with pytest.raises(ValueError, match=r"^gone\.png is no longer there"):
        Photo("gone.png", "/nowhere/at/all/gone.png", "").open()


# ---------------------------------------------------------------- what is taken away


def test_take_away(explorer, tmp_path):
    explorer.move(prompts="an apple; a cup")
    go(explorer)
    saved = Image.open(explorer.save_figure(tmp_path / "figure.png"))
    assert saved.width > 2 * 400
    for button, name in {"figure": "explorer.png", "code": "explorer.py"}.items():
        explorer.press(button)
        go(explorer)
        assert explorer.output["name"] == name
    assert b"gs.heatmap" in explorer.output["content"]
    explorer.move(k=1)
    assert explorer.output == {}  # it was of what was on the screen before


def test_every_tower(model, photo):
    shown = explore(model, photo, prompts="an apple")
    go(shown)
    shown.move(method="gradcam")
    go(shown)
    assert "k" in shown.off


def test_export_holds_what_it_needs(explorer, tmp_path):
    explorer.move(prompts="an apple; </script><b>a cup")
    go(explorer)
    page = explorer.export_html(tmp_path / "page.html").read_text()
    assert not re.search(r"__[A-Z]+__", page)
    assert page.count("</script>") == 2
    assert json.loads(re.search(r'id="data">(.*?)</script>', page)[1])["prompts"][1]["words"]
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


def page_of(explorer, tmp_path):
    page = explorer.export_html(tmp_path / "page.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


def test_a_page_shows_what_is_on_the_screen_or_is_refused(explorer, tmp_path):
    explorer.move(threshold=0.255)
    go(explorer)
    data = page_of(explorer, tmp_path)
    assert data["asked"]["threshold"] == 0.255
    steps = [step for step, _ in data["controls"][1][1]["options"]]
    assert steps[:1] + steps[25:28] == ["otsu", 0.25, 0.255, 0.26]
    for changes, words in (
        ({"threshold": "p90"}, "Got threshold='p90'; a page takes 'otsu' or a share"),
        (
            {"threshold": "otsu", "method": "center"},
            "Got Centre on the screen; a page computes",
        ),
        ({"compare": "method", "method": "gscorecam"}, "Got Grad-CAM on the screen"),
    ):
        explorer.move(**changes)
        go(explorer)
        with pytest.raises(ValueError, match=words):
            explorer.export_html(tmp_path / "no.html")
    assert not (tmp_path / "no.html").exists()


def test_half_an_emoji_is_no_prompt_and_an_odd_name_no_fault_of_the_page(resnet, photo, tmp_path):
    shown = explore(resnet, {"caf\udce9.png": photo}, prompts="an apple")
    go(shown)
    assert page_of(shown, tmp_path)["title"] == "caf\udce9.png"
    shown.move(prompts="an apple \ud83c")
    assert shown.wait(WAIT)
    assert "an apple \\ud83c" in shown.last_error
    assert "half a letter" in shown.last_error
    with pytest.raises(ValueError, match="half a letter"):
        shown.export_html(tmp_path / "no.html")
    shown.close()


def test_steps_of_k_and_prompts():
    steps = [k for k, _ in ks(1024, 100)]
    assert steps[0] == 1
    assert steps[-1] == 1024
    assert 100 in steps
    assert steps == sorted(set(steps))
    assert split_prompts(" a ; b\n a;") == ("a", "b")


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        choose([])


def test_what_is_given_is_looked_at_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "ph"
    folder.mkdir()
    (folder / "a.png").write_bytes(_png(8, 6))
    (folder / "note.txt").write_text("no photo")
    assert [photo.name for photo in choose("~/ph").values()] == ["a.png"]
    both = choose(["~/ph", "~/ph/a.png"])
    assert [photo.open().size for photo in both.values()] == [(8, 6)] * 2
    for nowhere in ("nonexist.jpg", "x" * 5000, "~nobodyzz/x"):
        with pytest.raises(FileNotFoundError, match=nowhere):
            choose(nowhere)
    with pytest.raises(ValueError, match=r"note\.txt cannot be read as a photo"):
        choose([folder / "note.txt"])
    with pytest.raises(ValueError, match=r"Got int as image; expected a PIL image, a path"):
        choose(5)
    with pytest.raises(ValueError, match=r"shape \(4, 6, 3\) and dtype float64; expected a photo"):
        choose(np.zeros((4, 6, 3)))


def test_composer(resnet, tmp_path):
    composer = attack_composer(resnet)
    assert composer.wait(WAIT)
    assert composer.last_error is None
    state = composer.value
    assert state["k"] == resnet.default_k
    assert sum(state["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert set(state["probabilities"]) >= {state["object"], state["word"]}
    before = [panel["map"] for panel in composer.shown["panels"]]
    composer.move(x=0.2)
    assert composer.wait(WAIT)
    after = [panel["map"] for panel in composer.shown["panels"]]
    assert len(after) == 2
    assert all(a != b for a, b in zip(before, after, strict=True))
    page = composer.export_html(tmp_path / "attack.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert [composer.short(name) for name, _ in data["shares"]] == list(state["probabilities"])
    found = [share for _, share in data["shares"]]
    assert found == pytest.approx(list(composer.value["probabilities"].values()), abs=1e-4)
    names = (state["object"], state["word"])
    assert all(f'"text": "{gs.typography.TEMPLATE.format(n)}"' in page for n in names)
    composer.move(word="")
    assert composer.wait(WAIT)
    assert composer.last_error is None
    assert len(composer.shown["panels"]) == 1
    composer.close()


def test_the_composer_opens_on_an_attack_that_works():
    composer = attack_composer("mini-rn")
    assert composer.wait(WAIT)
    assert composer.value["top"] == composer.value["word"] != composer.value["object"]
    composer.close()

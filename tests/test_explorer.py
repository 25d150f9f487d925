"""The explorer, its engine, worker, pages and composer, without a browser."""

import datetime
import io
import re
import threading
import time

import numpy as np
import pytest
from PIL import Image

import gscam_lib as gs
from gscam_lib.explorer import attack_composer, explore
from gscam_lib.explorer import engine as engine_module
from gscam_lib.explorer.engine import MASK, Engine, TimeLimitError
from gscam_lib.explorer.panel import split_prompts, steps_of_k
from gscam_lib.explorer.photos import LONGEST, choose, uploaded
from gscam_lib.explorer.request import Cancelled, Request
from gscam_lib.explorer.worker import Worker

WAIT = 60


@pytest.fixture
def explorer(resnet, photo):
    shown = explore(resnet, {"blobs": photo}, prompts="an apple")
    assert shown.wait(WAIT)
    yield shown
    shown.close()


@pytest.fixture
def engine(resnet, photo):
    return Engine(resnet, choose({"blobs": photo}))


def go(explorer):
    assert explorer.wait(WAIT)
    assert explorer.last_error is None
    return explorer.value


def never():
    return False


def test_the_text_is_what_gs_heatmap_says(explorer, resnet, photo):
    heat = gs.heatmap(resnet.trace(photo), "an apple")
    (found,) = go(explorer)["findings"]
    assert found["box"] == gs.heatmap_to_box(heat)
    assert found["logit"] == pytest.approx(heat.logit, abs=1e-4)
    assert found["k"] == heat.k == resnet.default_k
    assert f"logit {heat.logit:.2f}" in explorer.state.value
    assert 'role="status"' in explorer.state.value


def test_k_moves_the_picture_and_costs_nothing_when_warm(explorer):
    explorer.k.value = max(k for _, k in explorer.k.options)
    go(explorer)
    before = explorer.pictures[0].value
    explorer.k.value = 1
    state = go(explorer)
    assert explorer.pictures[0].value != before
    assert state["passes"] == 0
    assert state["saved"] == 2


def test_prompts_side_by_side_with_probabilities(explorer, resnet, photo):
    explorer.prompts.value = "an apple; a cup\na dog; a cup"
    found = go(explorer)["findings"]
    assert [f["prompt"] for f in found] == ["an apple", "a cup", "a dog"]
    logits = resnet.trace(photo).logits(["an apple", "a cup", "a dog"])
    shares = [f["probability"] for f in found]
    np.testing.assert_allclose(shares, logits.softmax(0), atol=1e-5)
    assert len(explorer.pictures) == 3


@pytest.mark.parametrize(("how", "count"), [("method", 2), ("k", 2), ("none", 1)])
def test_comparison(explorer, how, count):
    explorer.compare.value = how
    found = go(explorer)["findings"]
    assert len(found) == count
    if how == "method":
        assert found[1]["method"] == "gradcam"
    if how == "k":
        assert found[1]["k"] == 1


@pytest.mark.parametrize("toggle", ["box", "contour"])
def test_toggles_change_the_picture(explorer, toggle):
    before = explorer.pictures[0].value
    control = getattr(explorer, toggle)
    control.value = not control.value
    go(explorer)
    assert explorer.pictures[0].value != before


def test_truth_is_drawn_where_it_is_known(resnet, photo):
    example = gs.Example(Image.fromarray(photo), "an apple", ((5, 5, 30, 25),), "apple", "0", "t")
    shown = explore(resnet, [example])
    assert shown.prompts.value == "an apple" or shown.wait(WAIT)
    shown.wait(WAIT)
    before = shown.pictures[0].value
    shown.truth.value = True
    go(shown)
    assert shown.pictures[0].value != before


def test_threshold_is_the_one_of_heatmap_to_box(explorer, resnet, photo):
    explorer.threshold.value = 0.8
    (found,) = go(explorer)["findings"]
    heat = gs.heatmap(resnet.trace(photo), "an apple")
    assert found["box"] == gs.heatmap_to_box(heat, threshold=0.8)


def test_channels_are_ranked_and_show_their_masks(explorer, resnet, photo):
    ranked = resnet.trace(photo).ranking("an apple")[:12].tolist()
    assert go(explorer)["channels"] == ranked
    button = explorer.strip.children[2]
    button.click()
    go(explorer)
    assert Image.open(io.BytesIO(explorer.mask.value)).width == MASK
    assert str(ranked[2]) in explorer.mask_note.value
    button.click()
    go(explorer)
    assert explorer.mask_box.children == ()


def test_errors_are_shown_in_place_and_go_away(explorer):
    explorer.prompts.value = " ; "
    assert "no prompt" in explorer.last_error
    assert "no prompt" in explorer.message.value
    explorer.prompts.value = "a cup"
    go(explorer)
    assert explorer.message.value == ""


def _file(name, content):
    now = datetime.datetime.now(datetime.UTC)
    about = {"type": "image/png", "size": len(content), "last_modified": now}
    return {"name": name, "content": memoryview(content), **about}


def test_upload(explorer, photo):
    stream = io.BytesIO()
    Image.fromarray(photo[:, ::-1]).save(stream, "PNG")
    explorer.upload.value = [_file("mine.png", stream.getvalue())]
    assert go(explorer)["photo"].startswith("upload-")
    good = explorer.photo.value
    explorer.upload.value = [_file("broken.png", stream.getvalue()[:60])]
    assert "broken.png cannot be read" in explorer.last_error
    assert explorer.photo.value == good


def test_large_uploads_are_refused(resnet, photo):
    from gscam_lib.explorer.panel import Explorer

    shown = Explorer(Engine(resnet, choose(photo)), prompts="a cup", upload_limit=100)
    shown.upload.value = [_file("big.png", b"0" * 101)]
    assert "at most" in shown.last_error


def test_folder(explorer, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "one.png")
    explorer.folder.value = str(tmp_path)
    go(explorer)
    assert explorer.photo.label == "one.png"
    explorer.folder.value = str(tmp_path / "none")
    assert "No photos in" in explorer.last_error


def test_cancel_stops_a_long_scorecam_and_keeps_what_was_scored(resnet, photo, monkeypatch):
    engine = Engine(resnet, choose(photo))
    shown = explore(resnet, photo, prompts="a cup")
    shown.wait(WAIT)
    shown._engine = engine
    slow = type(resnet).encode_pixels

    def encode(*args, **options):
        time.sleep(0.05)
        return slow(*args, **options)

    monkeypatch.setattr(type(resnet), "encode_pixels", encode)
    shown.method.value = "scorecam"
    time.sleep(0.6)
    began = time.perf_counter()
    shown.cancel_button.click()
    assert shown.wait(WAIT)
    assert time.perf_counter() - began < 5
    trace = next(iter(engine._traces.values()))
    assert 0 < len(trace._masked) < len(trace.activations)
    assert shown.cancel_button.disabled
    assert shown.last_error is None


def test_maps_sharpen(engine, monkeypatch):
    monkeypatch.setattr("gscam_lib.explorer.engine.PERIOD", 0)
    seen = []
    request = Request(next(iter(engine.photos)), ("a cup",), "scorecam")
    last = engine.run(request, never, lambda done, total, early: seen.append((total, early)))
    early = [answer.findings[0] for _, answer in seen if answer]
    assert len(early) > 2
    assert early[0].k < early[-1].k
    assert early[0].png != last.findings[0].png
    assert all(total <= last.total_channels for total, _ in seen)


def test_time_limit(resnet, photo):
    engine = Engine(resnet, choose(photo), limit_s=0.0)
    with pytest.raises(TimeLimitError, match="longer than 0 s"):
        engine.run(Request("given-0", ("a cup",), "scorecam"), never, lambda *_: None)
    assert not resnet.network.visual._forward_pre_hooks


def test_stop_before_the_start(engine):
    with pytest.raises(Cancelled):
        engine.run(Request("given-0", ("a cup",)), lambda: True, lambda *_: None)


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
    assert not worker.busy


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
        engine.run(Request("given-0", ("a cup",)), never, lambda *_: None)
        timers.append(engine._rest)
    assert [timer.finished.is_set() for timer in timers] == [True, True, False]
    timers[-1].cancel()
    assert trims == []
    monkeypatch.setattr(engine_module, "REST", 0.01)
    engine.run(Request("given-0", ("a cup",)), never, lambda *_: None)
    engine._rest.join(WAIT)
    assert len(trims) == 1


@pytest.mark.parametrize("compare", ["none", "method", "k"])
def test_code_makes_what_is_on_the_screen(resnet, photo, monkeypatch, compare):
    example = gs.Example(Image.fromarray(photo), "an apple", ((5, 5, 30, 25),), "apple", "0", "t")
    explorer = explore(resnet, [example], prompts="an apple; a cup")
    explorer.compare.value, explorer.threshold.value = compare, 0.6
    explorer.opacity.value, explorer.contour.value, explorer.truth.value = 0.5, True, True
    go(explorer)
    monkeypatch.setattr(gs, "load_model", lambda name: resnet)
    displayed = []
    names = {"image": example.image, "display": lambda *pictures: displayed.extend(pictures)}
    exec(explorer.code(), names)
    assert names["boxes"] == [f["box"] for f in explorer.value["findings"]]
    for again, shown in zip(displayed, explorer.pictures, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(shown.value)), int)
        assert np.abs(np.asarray(again, int) - pixels).max() <= 2  # batches of other sizes
    explorer.close()


def test_save_figure(explorer, tmp_path):
    explorer.prompts.value = "an apple; a cup"
    go(explorer)
    saved = Image.open(explorer.save_figure(tmp_path / "figure.png"))
    assert saved.width > 2 * 400
    explorer.save_button.click()
    assert 'download="explorer.png"' in explorer.output.children[0].value
    explorer.code_button.click()
    assert "gs.heatmap" in explorer.output.children[1].value


def test_every_tower(model, photo):
    shown = explore(model, photo, prompts="an apple")
    go(shown)
    shown.method.value = "gradcam"
    go(shown)
    assert shown.k.disabled


def test_export_holds_what_it_needs(explorer, tmp_path):
    explorer.prompts.value = "an apple; </script><b>a cup"
    go(explorer)
    page = explorer.export_html(tmp_path / "page.html").read_text()
    assert "__DATA__" not in page
    assert page.count("</script>") == 2
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


def test_large_photos_are_reduced():
    key, photo = uploaded("wide.png", _png(3000, 200))
    assert max(photo.open().size) == LONGEST
    assert key.startswith("upload-")


def _png(width, height):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "green").save(stream, "PNG")
    return stream.getvalue()


def test_steps_of_k_and_prompts():
    steps = steps_of_k(1024, 100)
    assert steps[0] == 1
    assert steps[-1] == 1024
    assert 100 in steps
    assert steps == sorted(set(steps))
    assert split_prompts(" a ; b\n a;") == ("a", "b")


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        choose([])


def test_composer(resnet, tmp_path):
    composer = attack_composer(resnet)
    assert composer.wait(WAIT)
    assert composer.last_error is None
    state = composer.value
    assert state["k"] == resnet.default_k
    assert sum(state["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    before = [p.value for p in composer.pictures]
    composer.x.value = 0.2
    assert composer.wait(WAIT)
    assert all(a != p.value for a, p in zip(before, composer.pictures, strict=True))
    page = composer.export_html(tmp_path / "attack.html").read_text()
    assert all(f'"text": "{gs.typography.TEMPLATE.format(n)}"' in page for n in ("apple", "iPod"))
    composer.word.value = ""
    assert composer.wait(WAIT)
    assert composer.last_error is None
    assert composer.pictures[2].value == b""
    composer.close()

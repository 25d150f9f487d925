"""The page in which the model runs: its maps beside the library's, and a reader's steps."""

import base64
import hashlib
import io
import re
import string
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from chromium import free_port, launched, nameless, serve, shot, stop
from PIL import Image
from skimage import data

import gscam_lib as gs
from data.build.browser import bundle
from gscam_lib.explorer import controls as c
from gscam_lib.typography import put_label

pytestmark = pytest.mark.xdist_group("live")  # what is built for it is built once

PATIENCE = 180_000  # ms: a busy machine is slow, not wrong
STATE, PICTURE = ".gscam-state", ".gscam-picture canvas"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("live")
    with launched():  # without a browser nothing is built
        pass
    bundle.write(out)
    return out


@pytest.fixture(scope="module")
def browser(folder):
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with launched(*camera) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def models():
    return {name: gs.load_model(name) for name in bundle.MODELS}


@pytest.fixture(scope="module")
def photos():
    """Small and wide; larger than what is shown, and tall."""
    cat = Image.fromarray(data.chelsea())
    scene = Image.open(next(iter(gs.scenes.load("multi"))).image).convert("RGB")
    return {"photo-lite": cat, "mini-rn": scene.resize((500, 750), Image.Resampling.LANCZOS)}


@pytest.fixture
def opened(browser, folder):
    """Opens the page from disk, with no network; what it asked for and what went wrong is kept."""
    contexts = []

    def opened(query="", name="index.html", **options):
        context = browser.new_context(offline=True, **{"viewport": {"width": 1280, "height": 900},
                                                       **options})  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        seen = SimpleNamespace(asked=[], wrong=[])
        page.on("request", lambda r: seen.asked.append(r.url))
        page.on("pageerror", lambda error: seen.wrong.append(str(error)))
        page.goto((folder / name).as_uri() + query)
        return page, seen

    yield opened
    for context in contexts:
        context.close()


def address(photo):
    stream = io.BytesIO()
    photo.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


RUN = """async asked => {
const found = await window.gscam.run(asked);
const bytes = new Uint8Array(Float32Array.from(found.values).buffer);
return { ...found, values: Array.from(bytes, b => (b + 256).toString(16).slice(1)).join("") }; }"""


def run(page, photo, prompt, **asked):
    """A map of the page; its values as bytes, which are a tenth of the time under way."""
    given = photo if isinstance(photo, str) else address(photo)
    found = page.evaluate(RUN, {"photo": given, "prompt": prompt, **asked})
    return {**found, "values": np.frombuffer(bytes.fromhex(found["values"]), "<f4")}


def different(found, heat):
    """Largest difference of a map of the page from the library's."""
    assert tuple(found["shape"]) == heat.values.shape
    return np.abs(found["values"].reshape(found["shape"]) - heat.values).max()


def control(page, label):
    return page.locator(".gscam-explorer").get_by_label(label, exact=True).first


def settled(page):
    """Wait until nothing is computed any more, what is computed ahead left out."""
    page.wait_for_function(
        "() => window.gscam.last && !document.querySelector('.gscam-doing').textContent"
        ".match(/at most|Looking|Loading/) && !document.querySelector('.gscam-state')"
        ".textContent.includes('so far')"
    )


# ---------------------------------------------------------------- maps


@pytest.mark.parametrize("name", bundle.MODELS)
def test_maps_are_the_librarys(opened, models, photos, name):
    model, photo = models[name], photos[name]
    trace = model.trace(photo)
    page, seen = opened(f"?model={name}&method=gradcam")
    first, second = {"photo-lite": ("a tabby cat", "Gitar, “big” 2 dogs' noses"),
                     "mini-rn": ("a photo of a cow", "zebras")}[name]  # fmt: skip
    cases = [(first, "gscorecam", None), (first, "gscorecam", 7), (second, "gradcam", None)]
    for prompt, method, k in cases:
        found = run(page, photo, prompt, method=method, k=k)
        heat = gs.heatmap(trace, prompt, method, k=k)
        assert different(found, heat) < 1e-3, (prompt, method, k)
        assert (found["prompt"], found["method"], found["k"]) == (prompt, method, heat.k)
        assert f"logit {heat.logit:.2f}" in page.locator(STATE).inner_text()
    notes = page.locator(".gscam-note").all_inner_texts()
    known = model.knows(second)
    assert len(notes) == (not known.known)
    assert all(", ".join(known.nearest) in note for note in notes)
    if name == "photo-lite":  # half of its channels are blank here, so that all are soon through
        check_every_channel(page, trace, photo, first)
    assert seen.wrong == []


def check_every_channel(page, trace, photo, prompt):
    """ScoreCAM is gScoreCAM with all channels; after it every prompt and k are there."""
    found = run(page, photo, prompt, method="scorecam")
    every = run(page, photo, prompt, k=trace.model.channels)
    assert np.array_equal(every["values"], found["values"])
    assert (found["k"], every["k"]) == (None, trace.model.channels)
    passes = page.evaluate("window.gscam.passes")
    fewer = run(page, photo, "an egyptian cat", k=60)
    assert different(fewer, gs.heatmap(trace, "an egyptian cat", k=60)) < 1e-3
    assert page.evaluate("window.gscam.passes") == passes


def test_photos_of_every_kind_are_read_as_the_library_does(opened, models):
    """EXIF rotation, transparency on white, grey of 16 bits, CMYK, a palette, one pixel."""
    page, _ = opened("?method=gradcam")
    cat = Image.fromarray(data.chelsea())
    turned, clear = Image.Exif(), cat.copy()
    turned[0x0112] = 6
    clear.putalpha(Image.linear_gradient("L").resize(cat.size).point(lambda v: 255 * (v > 99)))
    deep = Image.fromarray(np.asarray(cat.convert("L")).astype(np.uint16) * 257)
    for photo, form, more in (
        (cat, "JPEG", {"exif": turned, "quality": 95}), (clear, "PNG", {}), (deep, "PNG", {}),
        (cat.convert("CMYK"), "JPEG", {}), (cat.convert("P"), "GIF", {}),
        (Image.new("RGB", (1, 1)), "PNG", {}),
    ):  # fmt: skip
        stream = io.BytesIO()
        photo.save(stream, form, **more)
        given = base64.b64encode(stream.getvalue()).decode()
        found = run(page, f"data:image/{form.lower()};base64,{given}", "a cat", method="gradcam")
        heat = gs.heatmap(models["photo-lite"].trace(Image.open(stream)), "a cat", "gradcam")
        assert different(found, heat) < 1e-3, (photo.mode, form)


def test_errors_say_what_to_do(opened, photos, folder, tmp_path):
    page, _ = opened("?method=gradcam")
    cat = photos["photo-lite"]
    for asked, message in (
        ({"method": "rise"}, "expected one of gscorecam"), ({"k": 0}, "channels 1 to 1280"),
        ({"prompt": " "}, "Write what to look for"), ({"model": "RN50"}, "one of photo-lite"),
        ({"prompt": "cat " * 40}, "is too long"), ({"photo": "data:image/png;base64,AAAA"}, "read"),
        ({"photo": "http://127.0.0.1:9/x.png"}, "cannot be read"),
        ({"photo": None}, "null cannot be read"), ({"prompt": "cat" * 100}, "catcat…” is too long"),
    ):  # fmt: skip
        given = {"photo": address(cat), "prompt": "a cat", **asked}
        said = page.evaluate("a => window.gscam.run(a).catch(error => error.message)", given)
        assert message in said
        assert page.locator(".gscam-error").inner_text() == said
    run(page, cat, "a cat", method="gradcam")  # what cannot be read was not kept
    assert page.locator(".gscam-error").is_hidden()
    page.goto(page.url.split("?")[0] + "?method=rise&k=9999&model=RN50&photo=mine&prompt=a cat")
    page.locator(".gscam-note").last.wait_for()
    notes = " ".join(page.locator(".gscam-note").all_inner_texts())
    assert re.findall("RN50|mine|rise|9999", notes) == ["RN50", "mine", "rise", "9999"]
    sent = page.evaluate("fetch('http://127.0.0.1:9/').catch(error => `${error}`)")
    assert "Failed to fetch" in sent
    alone = tmp_path / "index.html"
    alone.write_bytes((folder / "index.html").read_bytes())
    page.goto(alone.as_uri())
    page.locator(".gscam-error").filter(has_text="photo-lite.js is not beside this page").wait_for()


def test_policy_lets_nothing_out(folder):
    for path in folder.glob("*.html"):
        policy = re.search(r'Security-Policy" content="([^"]*)"', path.read_text())[1]
        assert "unsafe-inline" not in policy
        assert "http" not in policy
        assert "'self'" not in policy.split("connect-src")[1].split(";")[0]


# ---------------------------------------------------------------- the reader


def test_a_dropped_photo_prompts_and_k(opened, photos, capsys):
    page, seen = opened("?prompt=a tabby cat&k=20")
    settled(page)
    page.evaluate(
        """async url => {
        const blob = await (await fetch(url)).blob(), files = new DataTransfer();
        files.items.add(new File([blob], "my cat.png", { type: "image/png" }));
        window.start = performance.now();
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: files })); }""",
        address(photos["photo-lite"]),
    )
    first = page.evaluate(
        """() => new Promise(done => { const look = () => window.gscam.last.photo === "my cat.png"
        ? done(performance.now() - window.start) : requestAnimationFrame(look); look(); })"""
    )
    settled(page)
    assert control(page, "Photo").locator("option:checked").inner_text() == "my cat.png"
    field = control(page, "Prompts")
    field.fill("a tabby cat; a dog")
    field.press("Enter")
    page.wait_for_function("() => window.gscam.last.prompt === 'a dog'")
    settled(page)
    assert page.locator(PICTURE).count() == 2
    assert "“a tabby cat”" in page.locator(STATE).inner_text()
    slider = control(page, "Channels k")
    slider.focus()
    times = []
    for key in ["ArrowLeft"] * 5:
        page.evaluate(
            "() => { window.before = window.gscam.last; window.start = performance.now(); }"
        )
        slider.press(key)
        times.append(page.evaluate(
            """() => new Promise(done => { const look = () => window.gscam.last !== window.before
            ? done(performance.now() - window.start) : requestAnimationFrame(look); look(); })"""
        ))  # fmt: skip
    for label in ("Contour", "Photo beside"):
        control(page, label).check()
    page.locator(".gscam-picture polyline").first.wait_for(state="attached")
    shot(page, "live", "The live page: the model itself in the browser; weights: photo-lite.")
    nameless(page)
    with capsys.disabled():
        print(f"\nfirst map {first / 1e3:.2f} s, slider {np.median(times):.0f} ms")
    local = [url.partition("?")[0] for url in seen.asked if url.startswith("file:")]
    assert {url.rsplit("/", 1)[1] for url in local} == {
        "index.html", "photo-lite.js",
    }  # fmt: skip
    assert [url for url in seen.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert seen.wrong == []


def test_a_note_is_written_and_moved(opened, models):
    """As put_label writes it, within the letters' own edges, and where the map is pressed."""
    page, _ = opened("?model=mini-rn&method=gradcam&prompt=a cat&photo=multi: cow, suitcase, bowl")
    settled(page)
    before = page.evaluate("window.gscam.last.values[0]")
    field = control(page, "Note says")
    field.fill("zebra")
    field.press("Enter")
    page.wait_for_function("b => window.gscam.last.values[0] !== b", arg=before)
    settled(page)
    page.locator(PICTURE).first.click(position={"x": 60, "y": 100})
    page.wait_for_function("() => document.querySelector('.gscam-state').textContent")
    settled(page)
    said = page.locator(".gscam-explorer .gscam-value:visible").all_inner_texts()
    box = page.locator(PICTURE).first.bounding_box()
    at = 60 / box["width"], 100 / box["height"]
    assert f"{round(100 * at[0])} %" in said
    scene = next(iter(gs.scenes.load("multi")))
    logit = models["mini-rn"].trace(
        put_label(scene.image, "zebra", at=tuple(round(v, 2) for v in at))
    ).logit("a cat")  # fmt: skip
    page.wait_for_timeout(500)
    shown = float(re.search(r"logit (-?[\d.]+)", page.locator(STATE).inner_text())[1])
    assert abs(shown - logit) < 1


def test_a_photo_is_taken(opened):
    page, _ = opened("?method=gradcam", permissions=["camera"])
    settled(page)
    page.get_by_role("button", name="Take a photo").press("Enter")
    page.wait_for_function("() => document.querySelector('video').videoWidth")
    page.get_by_role("button", name="Take it").press("Enter")
    page.wait_for_function("() => window.gscam.last.photo === 'Take a photo'")


def test_from_any_web_server(browser, folder, models):
    """As python -m http.server: a photo by its name beside the page, nothing asked of others."""
    cat = Image.fromarray(data.chelsea())
    cat.save(folder / "my cat.png")
    port = free_port()
    place = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-m", "http.server", "-d", folder, "-b", "127.0.0.1", f"{port}"]
    server = serve(command, place, folder / "server.log")
    page, asked = browser.new_page(), []
    try:
        page.on("request", lambda r: asked.append(r.url))
        page.goto(f"{place}?method=gradcam")
        found = run(page, "my cat.png", "a cat", method="gradcam")
        heat = gs.heatmap(models["photo-lite"].trace(cat), "a cat", "gradcam")
        assert different(found, heat) < 1e-3
        assert found["photo"] == "my cat.png"
    finally:
        page.close()
        stop(server)
    assert [url for url in asked if not url.startswith((place, "blob:", "data:"))] == []


@pytest.mark.parametrize("language", bundle.LANGUAGES)
def test_every_language_says_everything(language):
    """The same keys, and in each sentence the same blanks, as in English."""
    english, other = _flat(c.texts()), _flat(c.texts(language))
    assert english.keys() == other.keys()
    for key, text in english.items():
        assert _blanks(other[key]) == _blanks(text), key
    same = [key for key, text in english.items()
            if other[key] == text and " " in text and not _blanks(text)]  # fmt: skip
    assert language == "en" or same == ["options.photo.photo-astronaut"]  # a name


def _flat(texts):
    deep = {key: value if isinstance(value, dict) else {"": value} for key, value in texts.items()}
    return {f"{key}.{name}": text for key, value in deep.items() for name, text in value.items()}


def _blanks(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def test_another_language_a_phone_and_one_file(opened):
    page, seen = opened(
        "?lang=es&method=gradcam", "photo-lite.html", viewport={"width": 390, "height": 844}
    )
    settled(page)
    texts = c.texts("es")
    assert page.evaluate("document.documentElement.lang") == "es"
    assert control(page, texts["labels"]["prompts"]).is_visible()
    assert page.locator("#private").inner_text() == texts["private"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_label(texts["language_name"]).select_option("de")
    page.wait_for_function("() => document.documentElement.lang === 'de'")
    settled(page)
    assert control(page, c.texts("de")["labels"]["prompts"]).is_visible()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ink, paper = page.locator(STATE).evaluate(
            "e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor]"
        )
        shades = [sum(map(float, re.findall(r"[\d.]+", color)[:3])) for color in (ink, paper)]
        assert (shades[0] > shades[1]) == (scheme == "dark")
        assert abs(shades[0] - shades[1]) > 400
    assert len([url for url in seen.asked if url.startswith("file:")]) == 1
    assert seen.wrong == []


def test_what_the_page_cannot_compute_is_refused():
    with pytest.raises(ValueError, match="mini-vit"):
        bundle.export(gs.load_model("mini-vit"))


def test_the_runtime_is_the_one_written_down():
    table = (bundle.HERE / "README.md").read_text(encoding="utf-8")
    files = [p for p in (bundle.HERE / "runtime").iterdir() if p.name != "LICENSE"]
    assert len(files) == 4
    for path in files:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"| {digest} | {path.name} |" in table

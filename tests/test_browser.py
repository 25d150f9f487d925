"""The explorer in JupyterLab, as a page from disk, and as an app, in a real browser."""

import base64
import contextlib
import io
import json
import os
import random
import re
import statistics
import sys
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest
from chromium import free_port, launched, nameless, serve, shot, stop
from PIL import Image

import gscam_lib as gs
from gscam_lib.explorer import explore
from gscam_lib.explorer.engine import REST
from gscam_lib.figures import overlay

MODEL = "mini-rn"
CODE = f"import gscam_lib as gs\nexplorer = gs.explore(gs.load_model({MODEL!r}))\nexplorer"
COMPOSER = "from gscam_lib.explorer import attack_composer\nattack_composer('mini-rn')"
ASK = "print('last error:', explorer.last_error)"
INTERACTIONS = int(os.environ.get("GSCAM_SOAK", "25"))
PHOTOS = ["multi: cow, suitcase, bowl", "Eileen Collins"]  # of the soak
PATIENCE = int(os.environ.get("GSCAM_PATIENCE", "300000"))  # ms: a busy machine is slow, not wrong
WEIGHTS = f"weights: {MODEL}, scenes of the miniature world"
STATE = ".gscam-explorer .gscam-state"
PICTURE = ".gscam-explorer .gscam-picture canvas"
HARM = "<img src=x onerror=harm=1>"


@pytest.fixture(scope="module")
def browser():
    with launched() as chromium:
        yield chromium


@contextlib.contextmanager
def new_page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()


@pytest.fixture(scope="module")
def model():
    return gs.load_model(MODEL)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab with a notebook for the explorer and one for the composer."""
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    for name, sources in {"live": [CODE, ASK], "composer": [COMPOSER]}.items():
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, folder / f"{name}.ipynb")
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1",
        "--IdentityProvider.token=", "--ServerApp.password=", "--allow-root",
        f"--ServerApp.root_dir={folder}", f"--LabApp.user_settings_dir={folder / 'settings'}",
        f"--LabApp.workspaces_dir={folder / 'workspaces'}",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    process = serve(command, f"{url}/api/status", folder / "lab.log")
    yield SimpleNamespace(url=url, pid=process.pid, settings=settings)
    stop(process)


@pytest.fixture(scope="module", params=["on", "off"], ids=lambda s: f"subshells-{s}")
def lab(request, server):
    """The same server; pages opened from here on talk to kernels over subshells, or not."""
    mode = "perCommTarget" if request.param == "on" else "disabled"
    chosen = json.dumps({"commsOverSubshells": mode})
    (server.settings / "kernels-settings.jupyterlab-settings").write_text(chosen)
    return server


def opened(lab, page, name):
    """Open a notebook and run its first cell."""
    page.goto(f"{lab.url}/lab/tree/{name}.ipynb?reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.get_by_text("Kernel status: Idle").first.wait_for(state="attached")
    page.keyboard.press("Control+B")  # the list of files makes room
    run_cell(page)


def closed(lab, page):
    for session in page.request.get(f"{lab.url}/api/sessions").json():
        page.request.delete(f"{lab.url}/api/sessions/{session['id']}")


@pytest.fixture(scope="module")
def notebook(lab, browser):
    """The explorer in JupyterLab, one kernel for all tests of a mode."""
    with new_page(browser) as page:
        opened(lab, page, "live")
        answered(page)
        settle(page)
        yield page
        closed(lab, page)


def run_cell(page, place=0):
    """Shift+Enter in a cell, again until it runs: a kernel just started drops requests."""
    prompt = page.locator(".jp-Notebook .jp-InputPrompt").nth(place)
    question = page.locator(".jp-Dialog .jp-mod-accept")  # such as: which kernel?
    for _ in range(20):
        if question.count():
            question.first.click()
        page.locator(".jp-Notebook .cm-content").nth(place).focus()
        before = prompt.inner_text()
        page.keyboard.press("Shift+Enter")
        for _ in range(20):  # until it is taken
            page.wait_for_timeout(100)
            if prompt.inner_text() != before:
                break
        while "*" in prompt.inner_text():
            page.wait_for_timeout(100)
        if re.search(r"\d", prompt.inner_text()) and prompt.inner_text() != before:
            return
    raise AssertionError("the cell did not run")


def answered(page):
    """Wait for the first map; what went wrong instead is said."""
    wrong = page.locator(".gscam-error:visible, .jp-OutputArea [data-mime-type$=error]")
    page.locator(STATE).filter(has_text="logit").or_(wrong).first.wait_for()
    assert wrong.all_inner_texts() == []


def text(page):
    return page.locator(STATE).first.inner_text()


def settle(page):
    """Wait until nothing is under way: Cancel can no longer be pressed."""
    button = page.get_by_role("button", name="Cancel", exact=True).first
    for _ in range(PATIENCE // 50):
        page.wait_for_timeout(50)
        if button.is_disabled():
            return
    raise AssertionError("the explorer did not come to rest")


def picture(page):
    """The first map, as its canvas has it."""
    return page.locator(PICTURE).first.evaluate("canvas => canvas.toDataURL()")


def changed(page, before):
    page.wait_for_function(
        "([q, t]) => document.querySelector(q).innerText !== t", arg=[STATE, before]
    )
    settle(page)


def control(page, label):
    return page.locator(".gscam-explorer").get_by_label(label, exact=True)


def agrees(page, model, prompt):
    """The text on the screen says what the library says when called directly."""
    said = text(page)
    k = int(re.search(r"with (\d+) of", said)[1])
    first = next(iter(gs.scenes.load("multi")))
    heat = gs.heatmap(model.trace(first.image), prompt, k=k)
    box = gs.heatmap_to_box(heat)
    assert f"“{prompt}”" in said
    assert f"logit {heat.logit:.2f}" in said
    assert "box {}, {} to {}, {}".format(*box) in said
    return k


@pytest.mark.xdist_group("lab")
def test_lab(notebook, model, tmp_path, capsys):
    page = notebook
    shot(page, "lab", f"The explorer in JupyterLab; {WEIGHTS}.")
    field = control(page, "Prompts")
    before = text(page)
    field.fill("zebra")
    field.press("Enter")
    changed(page, before)
    k = agrees(page, model, "zebra")

    slider = control(page, "Channels k")
    seen, before = picture(page), text(page)
    at = slider.bounding_box()
    page.mouse.click(at["x"] + at["width"] / 4, at["y"] + at["height"] / 2)
    changed(page, before)
    assert picture(page) != seen
    assert agrees(page, model, "zebra") < k

    seen, before = picture(page), text(page)
    slider.press("ArrowLeft")
    changed(page, before)
    assert picture(page) != seen
    left = agrees(page, model, "zebra")
    assert slider.get_attribute("aria-valuetext") == f"{left} of 1024"
    latency(page, slider, capsys)

    pointer(page, model)
    comparison(page)
    quality(page)
    prompts_and_channel(page, model)
    upload_and_break(page, tmp_path)
    cancel(page)
    code(page)


def pointer(page, model):
    """The value under the pointer is the map's, at a place of the photo's own pixels."""
    page.locator(PICTURE).first.hover()
    under = page.locator(".gscam-under").first.inner_text()
    value, x, y = map(float, re.search(r"([\d.]+) at (\d+), (\d+)", under).groups())
    first = next(iter(gs.scenes.load("multi")))
    k = int(re.search(r"with (\d+) of", text(page))[1])
    heat = gs.heatmap(model.trace(first.image), "zebra", k=k)
    assert abs(heat.values[int(y), int(x)] - value) < 0.02


def comparison(page):
    select = control(page, "Compare")
    for label, expected in {"with a method": "Grad-CAM", "one map": "gScoreCAM"}.items():
        before = text(page)
        select.select_option(label=label)
        changed(page, before)
        assert f", {expected}" in text(page)
        if expected == "Grad-CAM":
            shot(page, "compare", f"Two methods side by side; {WEIGHTS}.")


def quality(page):
    """Fewer passes, and how far the map may be from that with all; then all again."""
    slider, all_of_them = control(page, "Quality"), text(page)
    assert slider.get_attribute("aria-valuetext") == "every pass"
    slider.press("ArrowLeft")
    changed(page, all_of_them)
    assert slider.get_attribute("aria-valuetext") == "half"
    assert re.search(r"(\d+) of \d+ passes, ± 0\.\d\d", text(page))
    before = text(page)
    slider.press("End")
    changed(page, before)
    assert "passes, ±" not in text(page)


def words(page, model, prompt):
    """Below the map of the only prompt of several words stands what each word adds."""
    group = page.get_by_role("group", name="What each word adds to the logit")
    table = gs.words(model.trace(next(iter(gs.scenes.load("multi"))).image), prompt).table
    said = [line.split() for line in group.locator("span").all_inner_texts()]
    assert group.count() == 1
    assert [word for word, _ in said] == prompt.split()
    for (_, shown), (_, value) in zip(said, table, strict=True):
        assert abs(float(shown.replace("−", "-")) - value) < 0.006


def prompts_and_channel(page, model):
    """Several prompts side by side, true boxes, and one channel's mask by keyboard."""
    field, before = control(page, "Prompts"), text(page)
    field.fill("a cow and a suitcase; zebra; bowl")
    field.press("Enter")
    changed(page, before)
    assert page.locator(PICTURE).count() == 3
    prompts = ("a cow and a suitcase", "zebra", "bowl")
    assert [f"“{name}”" in text(page) for name in prompts] == [True] * 3
    words(page, model, prompts[0])
    control(page, "True boxes").check()
    control(page, "Photo beside").check()
    page.get_by_role("img", name="The photo without a map").wait_for()
    assert page.locator(".gscam-plain:visible").count() == 1
    page.locator("button.gscam-channel").nth(2).press("Enter")
    page.get_by_role("img", name=re.compile("through the mask")).wait_for()
    settle(page)
    page.get_by_role("button", name="Its strongest pictures").press("Enter")
    page.get_by_text("among the photos on offer").wait_for()
    settle(page)
    shot(page, "prompts", f"One channel: what its mask leaves, its strongest pictures; {WEIGHTS}.")
    nameless(page)
    control(page, "Photo beside").uncheck()


def code(page):
    page.get_by_role("button", name="Copy as code").press("Enter")
    area = page.get_by_label("Python code")
    area.wait_for()
    compile(area.input_value(), "copied", "exec")
    assert "gs.heatmap(" in area.input_value()


def latency(page, slider, capsys):
    """Median time from a key on the slider to a new picture, all channels warm."""
    slider.focus()
    page.evaluate(
        """() => { window.times = []; window.pressed = 0;
        document.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
        document.querySelector('.gscam-explorer').addEventListener('gscam-drawn', () => {
            if (window.pressed) { window.times.push(performance.now() - window.pressed);
            window.pressed = 0; } }); }"""
    )
    for i in range(12):
        page.keyboard.press("ArrowRight" if i < 6 else "ArrowLeft")
        page.wait_for_function("n => window.times.length > n", arg=i)
        page.wait_for_timeout(30)
    times = page.evaluate("window.times")
    with capsys.disabled():
        print(
            f"\nslider to picture, warm: median {statistics.median(times):.0f} ms of {len(times)}"
        )


def upload(page, path):
    control(page, "Upload a photo").set_input_files(path)


def upload_and_break(page, tmp_path):
    good, broken = tmp_path / "mine.png", tmp_path / "broken.png"
    with Image.open(next(iter(gs.scenes.load("single"))).image) as scene:
        scene.resize((320, 240)).save(good)
    broken.write_bytes(good.read_bytes()[:200])
    before = text(page)
    upload(page, good)
    changed(page, before)
    assert control(page, "Photo").locator("option:checked").inner_text() == good.name
    ask(page, "bicycle")
    upload(page, broken)
    page.locator(".gscam-error").filter(has_text="broken.png cannot be read").wait_for()
    page.locator(".gscam-error").scroll_into_view_if_needed()
    shot(page, "broken_file", f"A broken upload is refused in place; {WEIGHTS}.")
    good.rename(tmp_path / f"{HARM}.png")
    upload(page, tmp_path / f"{HARM}.png")
    listed = control(page, "Photo").locator("option").filter(has_text=HARM)
    listed.wait_for(state="attached")
    harmless(page, HARM + ".png")
    ask(page, HARM)
    harmless(page, HARM + ".png")
    before = text(page)
    control(page, "Photo").select_option(label="multi: cow, suitcase, bowl")
    changed(page, before)
    ask(page, "cow")


def ask(page, prompt):
    control(page, "Prompts").fill(prompt)
    control(page, "Prompts").press("Enter")
    page.locator(STATE).filter(has_text=f"“{prompt}”").wait_for()
    settle(page)


def harmless(page, name):
    """A photo's name and a prompt that would be code elsewhere are text."""
    assert control(page, "Photo").locator("option:checked").inner_text() == name
    page.wait_for_timeout(100)
    assert page.evaluate("window.harm") is None


def cancel(page):
    control(page, "Method").select_option(label="ScoreCAM")
    button = page.get_by_role("button", name="Cancel", exact=True).first
    page.locator(".gscam-doing").filter(has_text=re.compile("[0-9]+ of at most")).wait_for()
    page.locator(".gscam-caption").filter(has_text="of 1024 passes, ±").first.wait_for()
    shot(page, "working", f"ScoreCAM under way: the map sharpens, Cancel is offered; {WEIGHTS}.")
    button.click()
    page.get_by_text("what has been scored is kept").wait_for()
    assert button.is_disabled()


@pytest.mark.xdist_group("lab")
def test_composer(server, browser):
    with new_page(browser) as page:
        opened(server, page, "composer")
        answered(page)
        settle(page)
        composing(page)
        closed(server, page)


def composing(page):
    before, seen = text(page), picture(page)
    shares = page.locator(".gscam-bars span").all_inner_texts()
    assert {"apple", "car"} <= set(shares)  # the first attack that works on these weights
    shot(
        page, "composer", f"The attack composer: an attack that works, both maps; weights: {MODEL}."
    )
    control(page, "Note size").press("ArrowLeft")
    changed(page, before)
    assert picture(page) != seen
    nameless(page)


# ---------------------------------------------------------------- for a long time


@pytest.mark.xdist_group("lab")
def test_soak(lab, notebook, capsys):
    """Many random interactions; GSCAM_SOAK=1000 makes it the long one."""
    page, chance, parts = notebook, random.Random(0), 10 if INTERACTIONS >= 100 else 2
    kernel = next(k["id"] for k in page.request.get(f"{lab.url}/api/kernels").json())
    process = next(
        child
        for child in psutil.Process(lab.pid).children(recursive=True)
        if any(kernel in part for part in child.cmdline())
    )
    for photo in 2 * PHOTOS:  # what is kept is filled, so that growth is growth
        _choose("Photo", photo)(page, chance)
        for action in ACTIONS:
            action(page, chance)
            settle(page)
    used = [_held(page, process)]
    for i in range(INTERACTIONS):
        chance.choice(ACTIONS)(page, chance)
        page.wait_for_timeout(chance.choice([10, 100, 400]))
        if i % 10 == 9:
            settle(page)
        if parts * (i + 1) // INTERACTIONS > parts * i // INTERACTIONS:  # a part is done
            used.append(_held(page, process))
    growth = [round(u - used[0]) for u in used]
    run_cell(page, 1)
    page.get_by_text("last error: None").wait_for()
    with capsys.disabled():
        print(
            f"\nsoak: {INTERACTIONS} interactions, MB after each part: {growth}, kernel "
            f"{process.status()}"
        )
    assert growth[-1] < 50


def _held(page, process):
    """MB of a kernel at rest: what is freed goes back when nothing was asked for a while."""
    settle(page)
    page.wait_for_timeout(2000 * REST)
    return process.memory_full_info().uss / 1e6


def _slide(label):
    def act(page, chance):
        control(page, label).press(
            chance.choice(["ArrowLeft", "ArrowRight", "PageUp", "PageDown", "Home"])
        )

    return act


def _choose(label, *options):
    def act(page, chance):
        control(page, label).select_option(label=chance.choice(options))

    return act


def _press(name):
    return lambda page, chance: page.get_by_role("button", name=name, exact=True).press("Enter")


def _check(label):
    return lambda page, chance: control(page, label).press("Space")


def _type(page, chance):
    field = control(page, "Prompts")
    field.fill(chance.choice(["cow", "suitcase; cow", "zebra", "a bowl; cow; suitcase"]))
    field.press("Enter")


def _channel(page, chance):
    page.locator("button.gscam-channel").nth(chance.randrange(12)).press("Enter")


def _cancel(page, chance):
    button = page.get_by_role("button", name="Cancel", exact=True)
    if button.is_enabled():
        button.dispatch_event("click")


ACTIONS = [
    *map(_slide, ["Channels k", "Channels k", "Opacity", "Box above"]),
    *map(_check, ["Box", "Contour", "Photo beside"]),
    *map(_press, ["Copy as code", "Save figure"]),
    _choose("Method", "gScoreCAM", "Grad-CAM", "HiResCAM"),
    _choose("Compare", "one map", "with a method", "with another k"),
    _choose("Photo", *PHOTOS),
    _type,
    _channel,
    _cancel,
]


# ---------------------------------------------------------------- without a kernel


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    explorer = explore(model, prompts="cow; zebra")
    assert explorer.wait(120)
    path = explorer.export_html(tmp_path_factory.mktemp("page") / "page.html")
    request = explorer.request()
    trace = explorer._engine.trace(request.photo)
    explorer.close()
    return path, trace


@pytest.mark.xdist_group("app")
def test_page_from_disk(exported, browser, capsys):
    path, trace = exported
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    asked, wrong = [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("() => window.explorer")
    worst = 0
    slider = control(page, "Channels k")
    for prompt, steps in (("cow", 0), ("zebra", 12), ("cow", 25), ("cow", -50)):
        control(page, "Prompt").select_option(label=prompt)
        for _ in range(abs(steps)):
            slider.press("ArrowRight" if steps > 0 else "ArrowLeft")
        page.wait_for_timeout(300)
        worst = max(worst, compare(page, trace, prompt))
    control(page, "True boxes").check()
    slider.fill("40")
    page.wait_for_timeout(300)
    shot(page, "page", f"The page that needs no kernel; {WEIGHTS}.")
    nameless(page)
    before = page.evaluate("window.explorer.box")
    control(page, "Box above").press("End")
    page.wait_for_timeout(300)
    assert page.evaluate("window.explorer.box") != before
    narrow(page)
    with capsys.disabled():
        print(f"\npage: {path.stat().st_size / 1e6:.2f} MB, largest difference {worst}/255")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert wrong == []
    context.close()


def narrow(page):
    """On a phone the map and its sliders fit one screen, the map first; nothing moves sideways."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    places = [
        page.locator(PICTURE).first.bounding_box(),
        control(page, "Channels k").bounding_box(),
    ]
    assert places[0]["y"] < places[1]["y"] < 844
    in_both_schemes(page)


def in_both_schemes(page):
    """Letters stand out from the paper that is seen behind them, dark where dark is asked for."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        drawn = Image.open(io.BytesIO(page.locator(STATE).first.screenshot())).convert("L")
        grey = np.asarray(drawn, float)
        paper = np.median(grey)
        assert (paper < 128) == (scheme == "dark")
        assert np.abs(grey - paper).max() > 150
    page.emulate_media(color_scheme="light")


def compare(page, trace, prompt):
    """Largest difference of the canvas from the library's picture, in steps of 255."""
    k = page.evaluate("window.explorer.k")
    heat = gs.heatmap(trace, prompt, k=k)
    url = picture(page)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))
    expected = overlay(trace.image, heat.values, opacity=0.75)
    worst = int(np.abs(shown.astype(int) - expected).max())
    assert worst <= 2
    assert tuple(page.evaluate("window.explorer.box")) == gs.heatmap_to_box(heat)
    return worst


@pytest.mark.xdist_group("app")
def test_names_in_a_page_are_text(resnet, photo, browser, tmp_path):
    explorer = explore(resnet, {f"</script><b>{HARM}": photo}, prompts=f"a cup; {HARM}")
    assert explorer.wait(120)
    path = explorer.export_html(tmp_path / "page.html")
    explorer.close()
    with new_page(browser) as page:
        page.goto(path.as_uri())
        page.wait_for_function("() => window.explorer")
        control(page, "Prompt").select_option(index=1)
        page.locator(STATE).filter(has_text=f"“{HARM}”").wait_for()
        assert page.locator("h1").inner_text() == f"</script><b>{HARM}"
        assert page.locator(".gscam-explorer :is(img, b b, script)").count() == 0
        assert page.evaluate("window.harm") is None


# ---------------------------------------------------------------- the app


@pytest.mark.xdist_group("app")
def test_three_visitors(browser, tmp_path, capsys):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gscam_lib.explorer.app", "--model", MODEL, f"--port={port}"]
    process = serve(command, f"{url}/voila/static/", tmp_path / "app.log")
    try:
        contexts = [browser.new_context(viewport={"width": 1280, "height": 900}) for _ in range(3)]
        pages = [context.new_page() for context in contexts]
        for page in pages:
            page.set_default_timeout(PATIENCE)
            page.goto(
                f"{url}/?prompt=cow;bowl&photo=multi:%20cow,%20suitcase,%20bowl&method=gradcam"
                "&k=40&k=3",
                wait_until="commit",
            )
        for page in pages:
            page.locator(STATE).filter(has_text="logit").first.wait_for()
            assert control(page, "Prompts").input_value() == "cow;bowl"
            assert control(page, "Method").locator("option:checked").inner_text() == "Grad-CAM"
            assert control(page, "Channels k").get_attribute("aria-valuetext") == "40 of 1024"
            assert page.get_by_label("Folder").count() == 0
            control(page, "Method").select_option(label="gScoreCAM")
        prompts = ["cow", "zebra", "a pizza"]
        for page, prompt in zip(pages, prompts, strict=True):
            field = control(page, "Prompts")
            field.fill(prompt)
            field.press("Enter")
        for page, prompt in zip(pages, prompts, strict=True):
            page.locator(STATE).filter(has_text=f"“{prompt}”").first.wait_for()
        assert [p in text(page) for page, p in zip(pages, prompts, strict=True)] == [True] * 3
        nameless(pages[0])
        in_both_schemes(pages[0])
        shot(pages[0], "app", f"The app, one of three visitors; {WEIGHTS}.")
        with capsys.disabled():
            print("\n" + memory(process.pid))
        for context in contexts:
            context.close()
    finally:
        stop(process)


def memory(pid):
    """What the engine and each kernel hold, in MB of their own."""
    rows = []
    for child in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        line = " ".join(child.cmdline())
        kind = "kernel" if "ipykernel" in line else "voila" if "-m voila" in line else "engine"
        rows.append(f"{kind} {child.memory_full_info().uss / 1e6:.0f} MB")
    return "memory of their own: " + ", ".join(rows)

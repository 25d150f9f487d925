"""The explorer in JupyterLab, as a page from disk, and as an app, in a real browser."""

import base64
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
from chromium import free_port, launched, serve, shot, stop
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
PHOTOS = ["multi: cow, suitcase, bowl", "astronaut"]  # of the soak
PATIENCE = 300_000  # milliseconds: a busy machine is slow, not wrong
WEIGHTS = f"weights: {MODEL}, scenes of the miniature world"
STATE = ".gscam-explorer .gscam-state"
PICTURE = ".gscam-explorer .widget-gridbox img"


@pytest.fixture(scope="module")
def browser():
    with launched() as chromium:
        yield chromium


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()


@pytest.fixture(scope="module")
def model():
    return gs.load_model(MODEL)


@pytest.fixture(scope="module", params=["on", "off"], ids=lambda s: f"subshells-{s}")
def lab(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"lab-{request.param}")
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    for name, sources in {"live": [CODE, ASK], "composer": [COMPOSER]}.items():
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, folder / f"{name}.ipynb")
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    mode = "perCommTarget" if request.param == "on" else "disabled"
    chosen = json.dumps({"commsOverSubshells": mode})
    (settings / "kernels-settings.jupyterlab-settings").write_text(chosen)
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
    yield SimpleNamespace(url=url, pid=process.pid)
    stop(process)


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


@pytest.fixture
def notebook(lab, page):
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
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(1000)
        while "*" in prompt.inner_text():
            page.wait_for_timeout(200)
        if re.search(r"\d", prompt.inner_text()):
            return
        page.wait_for_timeout(2000)
    raise AssertionError("the cell did not run")


def answered(page):
    """Wait for the first map; what went wrong instead is said."""
    wrong = page.locator(".gscam-error, .jp-OutputArea [data-mime-type$=error]")
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
    """The bytes of the first map."""
    return bytes(
        page.evaluate(
            "async q => [...new Uint8Array(await (await fetch(document.querySelector(q).src))"
            ".arrayBuffer())]",
            PICTURE,
        )
    )


def changed(page, before):
    page.wait_for_function(
        "([q, t]) => document.querySelector(q).innerText !== t", arg=[STATE, before]
    )
    settle(page)


def control(page, label):
    return page.locator(".gscam-explorer .widget-hbox, .gscam-explorer .widget-inline-hbox").filter(
        has=page.locator(f"label:text-is('{label}')")
    ).last  # fmt: skip


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


def test_lab(notebook, model, tmp_path, capsys):
    page = notebook
    shot(page, "lab", f"The explorer in JupyterLab; {WEIGHTS}.")
    field = control(page, "Prompts").locator("input")
    before = text(page)
    field.fill("zebra")
    field.press("Enter")
    changed(page, before)
    k = agrees(page, model, "zebra")

    handle = control(page, "Channels k").locator(".noUi-handle")
    at, seen = handle.bounding_box(), picture(page)
    before = text(page)
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.mouse.move(at["x"] - 40, at["y"] + at["height"] / 2, steps=6)
    page.mouse.up()
    changed(page, before)
    assert picture(page) != seen
    assert agrees(page, model, "zebra") < k

    seen, before = picture(page), text(page)
    handle.focus()
    page.keyboard.press("ArrowLeft")
    changed(page, before)
    assert picture(page) != seen
    agrees(page, model, "zebra")
    latency(page, handle, capsys)

    comparison(page)
    prompts_and_channel(page)
    upload_and_break(page, tmp_path)
    cancel(page)
    code(page)


def comparison(page):
    select = control(page, "Compare").locator("select")
    for label, expected in {"with a method": "Grad-CAM", "one map": "gScoreCAM"}.items():
        before = text(page)
        select.select_option(label=label)
        changed(page, before)
        assert f", {expected}" in text(page)
        if expected == "Grad-CAM":
            shot(page, "compare", f"Two methods side by side; {WEIGHTS}.")


def prompts_and_channel(page):
    """Several prompts side by side, true boxes, and one channel's mask by keyboard."""
    field, before = control(page, "Prompts").locator("input"), text(page)
    field.fill("cow; suitcase; bowl")
    field.press("Enter")
    changed(page, before)
    assert page.locator(PICTURE).count() == 3
    assert [f"“{name}”" in text(page) for name in ("cow", "suitcase", "bowl")] == [True] * 3
    page.get_by_role("button", name="True boxes").press("Enter")
    page.locator("button.gscam-channel").nth(2).press("Enter")
    page.get_by_text("Mask of channel").wait_for()
    settle(page)
    shot(page, "prompts", f"Several prompts, true boxes, one channel's mask; {WEIGHTS}.")


def code(page):
    page.get_by_role("button", name="Copy as code").press("Enter")
    area = page.locator(".gscam-explorer textarea")
    area.wait_for()
    compile(area.input_value(), "copied", "exec")
    assert "gs.heatmap(" in area.input_value()


def latency(page, handle, capsys):
    """Median time from a key on the slider to a new picture, all channels warm."""
    handle.focus()
    page.evaluate(
        """q => { window.times = []; window.pressed = 0;
        document.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
        document.querySelector(q).addEventListener('load', () => { if (window.pressed) {
            window.times.push(performance.now() - window.pressed); window.pressed = 0; } }); }""",
        PICTURE,
    )
    for i in range(20):
        page.keyboard.press("ArrowRight" if i < 10 else "ArrowLeft")
        page.wait_for_function("n => window.times.length > n", arg=i)
        page.wait_for_timeout(150)
    times = page.evaluate("window.times")
    with capsys.disabled():
        print(
            f"\nslider to picture, warm: median {statistics.median(times):.0f} ms of {len(times)}"
        )


def upload(page, path):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=re.compile("Upload")).first.click()
    chooser.value.set_files(path)


def upload_and_break(page, tmp_path):
    good, broken = tmp_path / "mine.png", tmp_path / "broken.png"
    with Image.open(next(iter(gs.scenes.load("single"))).image) as scene:
        scene.resize((320, 240)).save(good)
    broken.write_bytes(good.read_bytes()[:200])
    before = text(page)
    upload(page, good)
    changed(page, before)
    assert control(page, "Photo").locator("select option:checked").inner_text() == "mine.png"
    upload(page, broken)
    page.locator(".gscam-error").filter(has_text="broken.png cannot be read").wait_for()
    shot(page, "broken_file", f"A broken upload is refused in place; {WEIGHTS}.")


def cancel(page):
    control(page, "Method").locator("select").select_option(label="ScoreCAM")
    button = page.get_by_role("button", name="Cancel", exact=True).first
    page.wait_for_function(
        "() => [...document.querySelectorAll('.gscam-explorer .widget-html')]"
        ".some(e => /[0-9]+ of at most/.test(e.innerText))"
    )
    shot(page, "working", f"ScoreCAM under way: the map sharpens, Cancel is offered; {WEIGHTS}.")
    button.click()
    page.get_by_text("what has been scored is kept").wait_for()
    assert button.is_disabled()


def test_composer(lab, page):
    opened(lab, page, "composer")
    page.locator(STATE).filter(has_text="k = 100").first.wait_for()
    before, seen = text(page), page.locator(".gscam-stage img").last.get_attribute("src")
    shot(page, "composer", f"The attack composer: an apple, a note, both maps; weights: {MODEL}.")
    control(page, "Note size").locator(".noUi-handle").press("ArrowLeft")
    page.wait_for_function(
        "([q, t]) => document.querySelector(q).innerText !== t", arg=[STATE, before]
    )
    assert page.locator(".gscam-stage img").last.get_attribute("src") != seen
    closed(lab, page)


# ---------------------------------------------------------------- for a long time


def test_soak(lab, notebook, capsys):
    """Many random interactions; GSCAM_SOAK=1000 makes it the long one."""
    page, chance = notebook, random.Random(0)
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
        if 10 * (i + 1) // INTERACTIONS > 10 * i // INTERACTIONS:  # a tenth is done
            used.append(_held(page, process))
    growth = [round(u - used[0]) for u in used]
    run_cell(page, 1)
    page.get_by_text("last error: None").wait_for()
    with capsys.disabled():
        print(
            f"\nsoak: {INTERACTIONS} interactions, MB after each tenth: {growth}, kernel "
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
        handle = control(page, label).locator(".noUi-handle")
        handle.press(chance.choice(["ArrowLeft", "ArrowRight", "PageUp", "PageDown", "Home"]))

    return act


def _choose(label, *options):
    def act(page, chance):
        control(page, label).locator("select").select_option(label=chance.choice(options))

    return act


def _press(name):
    return lambda page, chance: page.get_by_role("button", name=name, exact=True).press("Enter")


def _type(page, chance):
    field = control(page, "Prompts").locator("input")
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
    *map(_press, ["Box", "Contour", "True boxes", "Copy as code", "Save figure"]),
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
    for prompt, steps in (("cow", 0), ("zebra", 12), ("cow", 25), ("cow", -50)):
        page.locator("#prompt").select_option(label=prompt)
        page.locator("#k").focus()
        for _ in range(abs(steps)):
            page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
        page.wait_for_timeout(300)
        worst = max(worst, compare(page, trace, prompt))
    page.locator("#truth").check()
    page.locator("#k").fill("40")
    page.wait_for_timeout(300)
    shot(page, "page", f"The page that needs no kernel; {WEIGHTS}.")
    before = page.evaluate("window.explorer.box")
    page.locator("#threshold").focus()
    page.keyboard.press("End")
    page.wait_for_timeout(300)
    assert page.evaluate("window.explorer.box") != before
    with capsys.disabled():
        print(f"\npage: {path.stat().st_size / 1e6:.2f} MB, largest difference {worst}/255")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert wrong == []
    context.close()


def compare(page, trace, prompt):
    """Largest difference of the canvas from the library's picture, in steps of 255."""
    k = page.evaluate("window.explorer.k")
    heat = gs.heatmap(trace, prompt, k=k)
    url = page.evaluate("document.getElementById('picture').toDataURL('image/png')")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))
    expected = overlay(trace.image, heat.values, opacity=0.75)
    worst = int(np.abs(shown.astype(int) - expected).max())
    assert worst <= 2
    assert tuple(page.evaluate("window.explorer.box")) == gs.heatmap_to_box(heat)
    return worst


# ---------------------------------------------------------------- the app


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
            page.goto(url, wait_until="commit")
        for page in pages:
            page.locator(STATE).filter(has_text="logit").first.wait_for()
        prompts = ["cow", "zebra", "a pizza"]
        for page, prompt in zip(pages, prompts, strict=True):
            field = control(page, "Prompts").locator("input")
            field.fill(prompt)
            field.press("Enter")
        for page, prompt in zip(pages, prompts, strict=True):
            page.locator(STATE).filter(has_text=f"“{prompt}”").first.wait_for()
        assert [p in text(page) for page, p in zip(pages, prompts, strict=True)] == [True] * 3
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

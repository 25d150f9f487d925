"""A real browser: Playwright drives Debian's Chromium. On CI its absence is an error."""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

REQUIRED = bool(os.environ.get("CI"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FIGURES = Path(__file__).resolve().parents[1] / "figures"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


PICTURES = {"image", "img", "canvas", "graphics-document"}


def missing(what):
    if REQUIRED:
        pytest.fail(f"{what}, which CI must have")
    pytest.skip(f"{what}; apt-get install chromium and pip install playwright")


@contextlib.contextmanager
def launched(*arguments):
    """The browser; where it or Playwright is absent the test skips, or on CI fails."""
    if CHROMIUM is None:
        missing("no chromium on PATH")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("no playwright in this environment")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*ARGUMENTS, *arguments]
        )
        yield chromium
        chromium.close()


def shot(page, name, caption):
    """Keep a screenshot in figures/ when asked for: they are looked at before they are kept."""
    if not os.environ.get("GSCAM_SCREENSHOTS"):
        return
    about = PngInfo()
    about.add_text("Description", caption)
    with Image.open(io.BytesIO(page.screenshot())) as opened:
        few = np.asarray(opened.convert("RGB")) // 5 * 5  # fewer shades: half of the bytes
    Image.fromarray(few).save(FIGURES / f"explorer_{name}.png", optimize=True, pnginfo=about)


def nameless(page):
    """In the accessibility tree all that can be focused, and every picture, has a name of its own.

    Sliders tell the value that stands beside them, not their place.
    """
    session = page.context.new_cdp_session(page)
    asked = {"expression": "document.querySelector('.gscam-explorer')"}
    explorer = session.send("Runtime.evaluate", asked)["result"]["objectId"]
    nodes = session.send("Accessibility.queryAXTree", {"objectId": explorer})["nodes"]
    said = []
    for node in nodes:
        properties = {p["name"]: p["value"].get("value") for p in node.get("properties", [])}
        role = node.get("role", {}).get("value", "")
        if not node["ignored"] and (properties.get("focusable") or role in PICTURES):
            name = node.get("name", {}).get("value", "").strip()
            said.append((role, name))
    assert [role for role, name in said if not name] == []
    controls = [(role, name) for role, name in said if role not in PICTURES]
    assert len(set(controls)) == len(controls)
    assert len(said) >= 8
    sliders = page.locator(".gscam-explorer [type=range]:visible")  # the tree has their place alone
    told = sliders.evaluate_all("all => all.map(slider => slider.getAttribute('aria-valuetext'))")
    assert [role for role, _ in said].count("slider") == len(told) >= 3
    assert told == page.locator(".gscam-explorer .gscam-value:visible").all_inner_texts()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serve(command, url, log, **environment):
    """Start a server and wait until it answers."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment},
        )  # fmt: skip
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return process
        except urllib.error.HTTPError:  # it answers, if only with a no
            return process
        except OSError:
            time.sleep(0.2)
    process.terminate()
    raise RuntimeError(f"{command[2]} did not start:\n{Path(log).read_text()[-3000:]}")


def stop(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()

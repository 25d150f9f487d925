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


def missing(what):
    if REQUIRED:
        pytest.fail(f"{what}, which CI must have")
    pytest.skip(f"{what}; apt-get install chromium and pip install playwright")


@contextlib.contextmanager
def launched():
    """The browser; where it or Playwright is absent the test skips, or on CI fails."""
    if CHROMIUM is None:
        missing("no chromium on PATH")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("no playwright in this environment")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
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

"""The explorer for a classroom: Voila serves the page, one process here holds the model.

    python -m gscam_lib.explorer.app --model mini-rn --port 8866

Every visitor has a kernel and a state of their own; all kernels ask the one engine. It listens on
localhost unless --ip says otherwise: visitors run no code of their own, but there is no password.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError
from traitlets import Int

if TYPE_CHECKING:
    from gscam_lib.explorer.panel import Explorer
    from gscam_lib.explorer.photos import Photo

ADDRESS, KEY, UPLOADS = "GSCAM_APP_ADDRESS", "GSCAM_APP_KEY", "GSCAM_APP_UPLOAD_MB"
NOTEBOOK = Path(__file__).with_name("app.ipynb")
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' ws: wss:"
"""Browsers fetch from this server alone: Voila's own page asks for fonts elsewhere."""


class Kernels(AsyncMappingKernelManager):
    """One kernel for each visitor, and no more than the machine can hold."""

    most = Int(40, help="Visitors at one time.").tag(config=True)

    async def start_kernel(self, **options: Any) -> Any:  # type: ignore[override]
        """Start a kernel, or refuse a visitor too many."""
        if len(self.list_kernel_ids()) >= self.most:
            raise HTTPError(503, "The room is full; try again when someone has left.")
        return await super().start_kernel(**options)


def visitor() -> Explorer:
    """The explorer of one visitor, asking the engine of `main`. Raises ValueError without one.

    The address may choose what it begins with, k and the method by its name in METHODS, too:
    /?photo=a%20rocket&prompt=a%20rocket;a%20cloud&method=gradcam&k=10
    """
    from gscam_lib.explorer.panel import Explorer
    from gscam_lib.explorer.server import RemoteEngine

    if ADDRESS not in os.environ:
        raise ValueError("There is no engine to ask; start the app with `make app`.")
    engine = RemoteEngine(os.environ[ADDRESS], bytes.fromhex(os.environ[KEY]))
    asked = parse_qs(os.environ.get("QUERY_STRING", ""))
    return Explorer(
        engine,
        prompts="; ".join(asked.get("prompt", ())) or None,
        preset={name: asked[name][0] for name in ("photo", "method", "k") if name in asked},
        upload_limit=int(float(os.environ[UPLOADS]) * 1e6),
    )


def without_paths(photos: dict[str, Photo]) -> dict[str, Photo]:
    """The same photos; code that loads them names files as a visitor would have them."""
    return {
        key: replace(photo, source=f"load_photo({photo.name!r})")
        if photo.source.startswith(("load_photo('", 'load_photo("')) else photo
        for key, photo in photos.items()
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the explorer until Voila ends; gives its exit code.

    Exits at once, with one line, for a model or photos that are not there and for bad options.
    """
    options = _options(arguments)
    from gscam_lib.explorer.engine import Engine
    from gscam_lib.explorer.photos import choose
    from gscam_lib.explorer.server import Server
    from gscam_lib.trace.model import load_model

    try:
        model = load_model(options.model)
        photos = choose(options.images, drawn=model.name.startswith("mini"))
    except (ValueError, OSError) as error:  # ours: they say what to do
        sys.exit(f"error: {error}")
    name = Path(model.name).name if Path(model.name).exists() else model.name
    engine = Engine(model, without_paths(photos), limit_s=options.seconds, name=name)
    with tempfile.TemporaryDirectory() as folder:
        address, key = f"{folder}/engine", secrets.token_bytes(32)
        server = Server(engine, address, key)
        environment = {
            **os.environ, ADDRESS: address, KEY: key.hex(), UPLOADS: str(options.upload_mb),
        }  # fmt: skip
        signal.signal(signal.SIGTERM, _interrupt)
        page = subprocess.Popen(voila(options, Path(folder)), env=environment)
        try:
            return page.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end(page)
            server.close()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


def voila(options: argparse.Namespace, folder: Path) -> list[str]:
    """The command that serves the page; its settings are written into `folder`."""
    message = int(options.upload_mb * 1.5e6) + 1_000_000  # the file, and room for the rest
    tornado = {
        "websocket_max_message_size": message,
        "headers": {"Content-Security-Policy": POLICY},
    }
    settings = {
        "Voila": {"ip": options.ip, "port": options.port, "tornado_settings": tornado},
        "VoilaConfiguration": {
            "theme": "light",
            "show_tracebacks": False,
            "show_margins": False,
            "multi_kernel_manager_class": "gscam_lib.explorer.app.Kernels",
        },
        "Kernels": {"most": options.visitors},
        "MappingKernelManager": {"cull_idle_timeout": 900, "cull_interval": 60},
    }
    (folder / "voila.json").write_text(json.dumps(settings), encoding="utf-8")
    where = f"--Voila.config_file_paths={folder}"
    return [sys.executable, "-m", "voila", str(NOTEBOOK), "--no-browser", where]


def _above_0(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number above 0")
    return number


def _from_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number from 1 on")
    return int(text)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gscam_lib.explorer.app", description=__doc__)
    parser.add_argument("--model", default="mini-rn", help="as in load_model")
    parser.add_argument(
        "--images", default=None, help="a folder of photos, or one; default: bundled"
    )
    parser.add_argument("--ip", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8866)
    parser.add_argument(
        "--seconds", type=_above_0, default=60, help="the most one request may take"
    )
    parser.add_argument("--upload-mb", type=_above_0, default=10, help="the largest upload")
    parser.add_argument("--visitors", type=_from_1, default=40, help="the most at one time")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

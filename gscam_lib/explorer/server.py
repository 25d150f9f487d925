"""One engine for many visitors: it listens on a local socket, each visitor's kernel asks it.

Kernels then need neither torch nor weights. Messages are pickled, so both ends hold a secret key
and the socket is on this machine. (multiprocessing.managers would not tell the engine that a
visitor has left, nor take a call back.)
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any

from gscam_lib.explorer.request import About, Answer, Cancelled, Report, Request, Stop

if TYPE_CHECKING:
    from gscam_lib.explorer.engine import Engine

WAIT = 0.02  # seconds between looks at whether a request is still wanted
CALLS = {"about": 0, "add": 3, "run": 1, "take": 2}
LOG = logging.getLogger(__name__)


class Server:
    """Answers visitors with one engine, a thread for each call. `close()` ends it.

    address: a path for a Unix socket; key: what visitors must know.
    """

    def __init__(self, engine: Engine, address: str, key: bytes) -> None:
        self._engine = engine
        self._listener = Listener(address, family="AF_UNIX", authkey=key)
        self._closed = False
        threading.Thread(target=self._listen, name="explorer server", daemon=True).start()

    def close(self) -> None:
        """Take no more calls."""
        self._closed = True
        self._listener.close()

    def _listen(self) -> None:
        while not self._closed:
            try:
                connection = self._listener.accept()
            except Exception:  # a wrong key or a visitor who left: the next one may be fine
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with connection, contextlib.suppress(EOFError, OSError):
            name, arguments = connection.recv()
            try:
                if CALLS.get(name) != len(arguments):
                    raise ValueError(f"Got the call {name!r}; expected one of {', '.join(CALLS)}.")
                if name in ("run", "take"):
                    # A message, or the end of the line, means that it is no longer wanted.
                    arguments = (*arguments, connection.poll, _reporter(connection))
                connection.send(("done", getattr(self._engine, name)(*arguments)))
            except Cancelled:
                connection.send(("cancelled", None))
            except ValueError as error:  # ours: it says what came in and what to do
                connection.send(("error", f"{error}"))
            except Exception:  # not ours: it may tell of this machine, so the log alone has it
                LOG.exception("A visitor's request failed.")
                connection.send(("error", "Something went wrong here; the app's log says what."))


def _reporter(connection: Connection) -> Report:
    def report(done: int, total: int, early: Answer | None) -> None:
        try:
            connection.send(("report", (done, total, early)))
        except OSError as error:
            raise Cancelled from error

    return report


class RemoteEngine:
    """The engine of another process, as one visitor. Raises ValueError with what it found wrong."""

    def __init__(self, address: str, key: bytes) -> None:
        self._address, self._key = address, key
        self._visitor = secrets.token_hex(8)  # uploads are kept, counted and found by it

    def about(self) -> About:
        """What there is to choose from."""
        found: About = self._call("about")
        return found

    def add(self, name: str, content: bytes) -> str:
        """Take a photo's file; gives its key."""
        return str(self._call("add", name, content, self._visitor))

    def run(self, request: Request, stop: Stop, report: Report) -> Answer:
        """Answer; raises Cancelled when `stop()` becomes true."""
        found: Answer = self._call("run", request, stop=stop, report=report)
        return found

    def take(self, what: str, request: Request, stop: Stop, report: Report) -> bytes:
        """What a reader takes away: a "page", a "figure" or the "code"."""
        return bytes(self._call("take", what, request, stop=stop, report=report))

    def _call(
        self, name: str, *arguments: Any, stop: Stop | None = None, report: Report | None = None
    ) -> Any:
        try:
            connection = Client(self._address, family="AF_UNIX", authkey=self._key)
        except OSError as error:
            raise ValueError("The app has ended; ask for it to be started again.") from error
        with connection:
            connection.send((name, arguments))
            while True:
                while not connection.poll(WAIT):
                    if stop is not None and stop():
                        connection.send("stop")
                        raise Cancelled
                kind, value = connection.recv()
                if kind == "report" and report is not None:
                    report(*value)
                elif kind == "done":
                    return value
                elif kind == "cancelled":
                    raise Cancelled
                elif kind == "error":
                    raise ValueError(value)

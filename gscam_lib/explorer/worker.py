"""A worker on which the newest job wins, and the count of passes that ends a job in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from gscam_lib.explorer.request import Answer, Cancelled, Report, Stop

Job = Callable[[Stop], None]
PERIOD = 0.25  # seconds between maps that sharpen


class TimeLimitError(ValueError):
    """A request took longer than the engine allows."""


class Worker:
    """Runs one job at a time on its own thread; the thread lives while there is work.

    failed: called with what a job raised, other than Cancelled.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self.generation = 0
        self._failed = failed
        self._waiting: tuple[int, Job] | None = None
        self._thread: threading.Thread | None = None
        self._change = threading.Condition()

    def submit(self, job: Job) -> int:
        """Put a job in the place of all before it; gives its generation. Never blocks."""
        with self._change:
            self.generation += 1
            self._waiting = (self.generation, job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="explorer", daemon=True)
                self._thread.start()
            return self.generation

    def cancel(self) -> None:
        """Tell the running job to stop, and drop the one that waits."""
        with self._change:
            self.generation += 1
            self._waiting = None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is no work left; False if it lasts longer than `timeout` seconds."""
        with self._change:
            return self._change.wait_for(lambda: self._thread is None, timeout)

    def _work(self) -> None:
        while True:
            with self._change:
                if self._waiting is None:
                    self._thread = None
                    self._change.notify_all()
                    return
                (number, job), self._waiting = self._waiting, None
            try:
                job(lambda number=number: self.generation != number)  # type: ignore[misc]
            except Cancelled:
                continue
            except Exception as error:  # shown to the reader: a dead thread would tell nothing
                if number == self.generation:
                    self._failed(error)


class Count:
    """A forward pre-hook: counts photos, and stops what is no longer wanted."""

    def __init__(self, stop: Stop, report: Report, limit_s: float | None) -> None:
        self.passes, self.total = 0, 0
        self.began = time.perf_counter()
        self._thread = threading.get_ident()
        self._stop, self._report, self._limit = stop, report, limit_s
        self._told = 0.0

    def __call__(self, module: Any, inputs: Any) -> None:
        """Before a forward pass: count its photos."""
        if threading.get_ident() != self._thread:
            return  # someone else's work with this model
        self.check()
        self.passes += len(inputs[0])
        if time.perf_counter() - self._told > PERIOD:
            self._told = time.perf_counter()
            self.report()

    def report(
        self, early: Answer | None = None, done: int | None = None, total: int | None = None
    ) -> None:
        """Tell how far it is: passes, or parts done of a total."""
        self.check()
        self._report(
            self.passes if done is None else done, self.total if total is None else total, early
        )

    def check(self) -> None:
        """Raise Cancelled or TimeLimitError if this request must end."""
        if self._stop():
            raise Cancelled
        if self._limit is not None and time.perf_counter() - self.began > self._limit:
            raise TimeLimitError(
                f"This took longer than {self._limit:g} s, the limit here. Take fewer channels, "
                "fewer prompts or a quicker method; what has been scored is kept."
            )

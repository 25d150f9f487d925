"""A worker on which the newest job wins: older ones are told to stop, or never begin."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gscam_lib.explorer.request import Cancelled, Stop

Job = Callable[[Stop], None]


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

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        with self._change:
            return self._thread is not None

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

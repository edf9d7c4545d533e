"""SIGTERM and SIGINT as a request to stop after the step at hand."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While entered, remembers that a stop was asked for; afterwards signals act as before.

    Repeated signals change nothing: launchers forward what the terminal has sent already.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._previous = {s: signal.signal(s, self._remember) for s in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            name = signal.Signals(number).name
            print(f"{name}: stopping after this step", file=sys.stderr, flush=True)
        self.requested = True

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

    Raises:
        KeyboardInterrupt: on entering, where Ctrl-C came earlier and has ended nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        handler = signal.getsignal(signal.SIGINT)
        if getattr(handler, "received", False):  # Ctrl-C has come, and was swallowed by an import
            raise KeyboardInterrupt
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

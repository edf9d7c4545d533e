"""How a command line of any room ends."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

_INTERRUPTED, _PIPE_CLOSED = 130, 141  # as of a process that SIGINT or SIGPIPE ended


class _Interrupt:
    """Ends a command at Ctrl-C, and keeps that it was to end.

    A library may swallow what is raised while it is imported; who handles signals from then on asks
    for `received`.
    """

    received = False

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        self.received = True
        raise KeyboardInterrupt


def run(main: Callable[[], int], *, when_stopped: str) -> NoReturn:
    """Run a command and exit with its status.

    Ctrl-C ends it with status 130 and one line, a reader of its output that wants no more, such as
    `head`, with 141 and none.

    Args:
        when_stopped: that line: what would go on.
    """
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
            signal.signal(signal.SIGINT, _Interrupt())
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(when_stopped, file=sys.stderr)
        status = _INTERRUPTED
    except BrokenPipeError:
        # Python writes what is left when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _PIPE_CLOSED
    sys.exit(status)

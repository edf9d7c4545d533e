"""How a command line of any room ends."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

_INTERRUPTED, _PIPE_CLOSED = 130, 141  # as of a process that SIGINT or SIGPIPE ended


def run(main: Callable[[], int], *, when_stopped: str) -> NoReturn:
    """Run a command and exit with its status.

    Ctrl-C ends it with status 130 and one line, a reader of its output that wants no more, such as
    `head`, with 141 and none.

    Args:
        when_stopped: that line: what would go on.
    """
    try:
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

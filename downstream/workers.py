"""Pieces of work side by side in processes of one thread each, or one after another in this one.

Small networks, small batches and small heads gain little from a second thread, which has to wait
for the first some thousand times a second; a second process doubles the work done.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from data.errors import DataError
from models.errors import ModelError
from training.errors import InputError
from training.signals import StopRequest

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_SECONDS_BETWEEN_LOOKS = 0.2


def compute_in_processes(
    pieces: Sequence[Piece],
    open_work: Callable[[], Callable[[Piece], Result]],
    count: int | None,
    stop: StopRequest,
) -> Iterator[tuple[Piece, Result]]:
    """Yield pieces of work with their results as they are done, in no certain order.

    Ends early, without the pieces in progress, once a stop is requested.

    Args:
        open_work: called once in each process, for what computes a piece; picklable, as are
            pieces and results.
        count: of processes; None: one per core.
    Raises:
        InputError, DataError, ModelError, OSError: as raised in a worker.
        RuntimeError: a worker died; its own message is on stderr.
    """
    spawn = multiprocessing.get_context("spawn")
    waiting = deque(pieces)
    workers: dict[Connection, SpawnProcess] = {}
    at_work: dict[Connection, Piece] = {}
    try:
        for _ in range(min(count or _cores(), len(pieces))):
            ours, theirs = spawn.Pipe()
            worker = spawn.Process(target=_work, args=(theirs,), daemon=True)
            worker.start()
            theirs.close()
            workers[ours] = worker
            at_work[ours] = waiting.popleft()
            ours.send(open_work)
            ours.send(at_work[ours])
        while workers and not stop.requested:
            for connection in wait(list(workers), timeout=_SECONDS_BETWEEN_LOOKS):
                assert isinstance(connection, Connection)
                done, result = at_work[connection], _receive(connection, workers[connection])
                if waiting:
                    at_work[connection] = waiting.popleft()
                    connection.send(at_work[connection])
                else:
                    connection.close()  # the worker reads the end of its work, and ends
                    workers.pop(connection).join()
                yield done, result
    finally:
        for worker in workers.values():
            worker.terminate()
        for worker in workers.values():
            worker.join()


def compute_here(
    pieces: Sequence[Piece], compute: Callable[[Piece], Result], stop: StopRequest
) -> Iterator[tuple[Piece, Result]]:
    """As `compute_in_processes`, in this process and, on a CPU, in one thread as there."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for piece in pieces:
            if stop.requested:
                return
            yield piece, compute(piece)
    finally:
        torch.set_num_threads(threads)


def _cores() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _receive(connection: Connection, worker: SpawnProcess) -> Any:
    try:
        answer = connection.recv()
    except EOFError:
        worker.join()
        raise RuntimeError(f"a worker process ended with exit code {worker.exitcode}") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _work(connection: Connection) -> None:
    """Compute one piece after another until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends us
    import torch

    torch.set_num_threads(1)
    try:
        compute = connection.recv()()  # not an argument: it imports much, and Ctrl-C ended that
        while True:
            connection.send(compute(connection.recv()))
    except (EOFError, ConnectionError):
        return  # no more pieces, or nobody waits for their results
    except (InputError, DataError, ModelError, OSError) as error:
        connection.send(error)

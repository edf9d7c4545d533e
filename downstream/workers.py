"""Processes that compute rows side by side, one thread each.

Small networks, small batches and small heads gain little from a second thread, which has to wait
for the first some thousand times a second; a second process doubles the work done.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from data.errors import DataError
from downstream.results import Key, KeyedRow
from models.errors import ModelError
from training.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from downstream.bench import Bench

_SECONDS_BETWEEN_LOOKS = 0.2


def compute_in_processes(
    groups: Sequence[tuple[Key, ...]],
    make_bench: Callable[[Accelerator], Bench[Key, KeyedRow]],
    count: int,
    stop_requested: Callable[[], bool],
) -> Iterator[tuple[tuple[Key, ...], list[KeyedRow]]]:
    """Yield groups with their rows as they are done, in no certain order.

    Ends early, without the groups in progress, once a stop is requested.

    Args:
        make_bench: picklable; each process makes a bench of its own.

    Raises:
        InputError, DataError, ModelError, OSError: as raised in a worker.
        RuntimeError: a worker died; its own message is on stderr.
    """
    spawn = multiprocessing.get_context("spawn")
    waiting = deque(groups)
    workers: dict[Connection, SpawnProcess] = {}
    at_work: dict[Connection, tuple[Key, ...]] = {}
    try:
        for _ in range(min(count, len(groups))):
            ours, theirs = spawn.Pipe()
            worker = spawn.Process(target=_work, args=(theirs, make_bench), daemon=True)
            worker.start()
            theirs.close()
            workers[ours] = worker
            at_work[ours] = waiting.popleft()
            ours.send(at_work[ours])
        while workers and not stop_requested():
            for connection in wait(list(workers), timeout=_SECONDS_BETWEEN_LOOKS):
                assert isinstance(connection, Connection)
                done, rows = at_work[connection], _receive(connection, workers[connection])
                if rows is None:
                    if stop_requested():  # of which the worker was told too, while it started
                        return
                    exitcode = workers[connection].exitcode
                    raise RuntimeError(f"a worker process ended with exit code {exitcode}")
                if waiting:
                    at_work[connection] = waiting.popleft()
                    connection.send(at_work[connection])
                else:
                    connection.close()  # the worker reads the end of its groups, and ends
                    workers.pop(connection).join()
                yield done, rows
    finally:
        for worker in workers.values():
            worker.kill()
        for worker in workers.values():
            worker.join()


def _receive(connection: Connection, worker: SpawnProcess) -> list[Any] | None:
    """Return a group's rows; None where the worker has ended."""
    try:
        answer = connection.recv()
    except EOFError:
        worker.join()
        return None
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, list)
    return answer


def _work(connection: Connection, make_bench: Callable[[Accelerator], Bench[Any, Any]]) -> None:
    """Compute one group after another until the other end closes."""
    # Ctrl-C reaches all processes of a terminal, and torchrun's SIGTERM all of a rank's: the parent
    # ends us.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    import torch

    from downstream.finetune import COMPUTE
    from training.compute import make_accelerator

    torch.set_num_threads(1)
    try:
        bench = make_bench(make_accelerator(COMPUTE, cpu=True))
        while True:
            connection.send(bench.compute(connection.recv()))
    except (EOFError, ConnectionError):
        return  # no more groups, or nobody waits for their rows
    except (InputError, DataError, ModelError, OSError) as error:
        connection.send(error)

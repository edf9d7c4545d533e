"""Processes that train classifiers side by side, one thread each.

Small networks on small batches gain little from a second thread; a second process doubles the
work done.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from downstream.config import CurveConfig
from downstream.results import Row, RowKey
from models.errors import ModelError
from training.errors import InputError

Task = tuple[RowKey, NDArray[np.int64]]
_SECONDS_BETWEEN_LOOKS = 0.2


def train_in_processes(
    tasks: Sequence[Task], config: CurveConfig, count: int, stop_requested: Callable[[], bool]
) -> Iterator[Row]:
    """Yield the rows of some tasks as they are done, in no certain order.

    Ends early, without the rows in progress, once a stop is requested.

    Raises:
        InputError, DataError, ModelError: as raised in a worker.
        RuntimeError: a worker died; its own message is on stderr.
    """
    spawn = multiprocessing.get_context("spawn")
    waiting = deque(tasks)
    workers: dict[Connection, SpawnProcess] = {}
    try:
        for _ in range(min(count, len(tasks))):
            ours, theirs = spawn.Pipe()
            worker = spawn.Process(target=_work, args=(theirs, config), daemon=True)
            worker.start()
            theirs.close()
            workers[ours] = worker
            ours.send(waiting.popleft())
        while workers and not stop_requested():
            for connection in wait(list(workers), timeout=_SECONDS_BETWEEN_LOOKS):
                assert isinstance(connection, Connection)
                row = _receive(connection, workers[connection])
                if waiting:
                    connection.send(waiting.popleft())
                else:
                    connection.close()  # the worker reads the end of its tasks, and ends
                    workers.pop(connection).join()
                yield row
    finally:
        for worker in workers.values():
            worker.terminate()
        for worker in workers.values():
            worker.join()


def _receive(connection: Connection, worker: SpawnProcess) -> Row:
    try:
        answer = connection.recv()
    except EOFError:
        worker.join()
        raise RuntimeError(f"a worker process ended with exit code {worker.exitcode}") from None
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, Row)
    return answer


def _work(connection: Connection, config: CurveConfig) -> None:
    """Train one row after another until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends us
    import torch

    from downstream.finetune import COMPUTE
    from downstream.inputs import open_inputs
    from downstream.trained_arms import train_row
    from training.compute import make_accelerator

    torch.set_num_threads(1)
    try:
        inputs = open_inputs(config)
        accelerator = make_accelerator(COMPUTE, cpu=True)
        while True:
            key, rows = connection.recv()
            connection.send(train_row(key, rows, inputs, config, accelerator))
    except EOFError:
        return
    except (InputError, DataError, ModelError) as error:
        connection.send(error)

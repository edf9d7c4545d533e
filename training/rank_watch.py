"""A watch over the ranks of a run: one that dies or hangs ends all of them, and is named.

Rank 0 and every other rank tell each other once a second where their main threads are, over
connections of their own: collectives are no use for it, since a rank that waits in one can neither
speak nor listen. Rank 0 judges all, the others judge rank 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from training.rank_reports import RankJudge, Report, State, Verdict

if TYPE_CHECKING:
    from accelerate import Accelerator

_TICK = 1.0
_TOKEN_BYTES = 16
_CONNECT_SECONDS = 10.0
# What fails on one rank may be about to fail on all: each is left the time to say so itself.
_GRACE = 2.0
_LONGEST_WORDS = 500


class RankWatch:
    """While entered by all ranks, ends each of them where one has died or hangs.

    Ending is one line on stderr, from one process of each node, and exit status 1 at once: a main
    thread that waits for a lost rank cannot be told to stop. It happens

    - at once where a rank's process has ended, or has left the block with an error of its own;
    - after `timeout` where a rank's process stands still as a whole (stopped, swapped out, its
      machine gone), or where its main thread does and other ranks have come further.

    Where all have come equally far and wait for each other, the collective's own timeout decides:
    a step may rightly take long. With one rank it does nothing.

    Attributes:
        step: the step at hand, counted from 1; whoever takes the steps sets it.
    """

    def __init__(self, accelerator: Accelerator, timeout: float) -> None:
        """Watch nothing yet; `timeout` is in seconds, > 0."""
        tick = min(_TICK, timeout / 10)
        self.step = 0
        self._accelerator = accelerator
        self._rank: int = accelerator.process_index
        self._tick = tick
        self._judge = RankJudge(timeout, tick, _GRACE)
        self._marks, self._section = 0, "start"
        self._state: State = "running"
        self._words = ""
        self._leaving = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def mark(self, section: str) -> None:
        """Note what this rank's main thread does next. All ranks must make the same marks."""
        self._section = section
        self._marks += 1

    def __enter__(self) -> RankWatch:
        if self._accelerator.num_processes > 1:
            listener = _listen() if self._rank == 0 else None
            port, self._token = self._agree(listener)
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._run, args=(listener, port), name="rank-watch", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._loop is None:
            return
        if error is not None:
            self._words = f"{type(error).__name__}: {error}".split("\n")[0][:_LONGEST_WORDS]
            if _is_lost_connection(error):
                self._await_verdict()
        self._state = "done" if error is None else "failed"
        self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join(_GRACE)

    def _await_verdict(self) -> None:
        """Stay until it is known which rank broke the connection; does not return."""
        if threading.current_thread() is threading.main_thread():
            # Launchers ask the other ranks to end where one has died. They will, with its number.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._state = "cut"
        time.sleep(self._judge.patience + 3 * _GRACE)
        self._end(Verdict(None, f"the ranks lost each other: {self._words}"))

    def _agree(self, listener: socket.socket | None) -> tuple[int, bytes]:
        """Return rank 0's port, and what its callers show to prove that they are of this run."""
        values = [0] * (1 + _TOKEN_BYTES)
        if listener is not None:
            values = [listener.getsockname()[1], *secrets.token_bytes(_TOKEN_BYTES)]
        shared = torch.tensor(values, device=self._accelerator.device)
        port, *token = self._accelerator.reduce(shared, reduction="sum").tolist()
        return port, bytes(token)

    # ------------------------------------------------------------ the thread

    def _run(self, listener: socket.socket | None, port: int) -> None:
        loop = self._loop
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # type: ignore[arg-type, return-value]
            runner.run(self._serve(listener) if listener is not None else self._call(port))

    async def _serve(self, listener: socket.socket) -> None:
        """Rank 0: listen to all others."""
        async with await asyncio.start_server(self._welcome, sock=listener):
            await self._watch()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled where the run ends: asyncio would print that as an error.
        ends = (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*ends):
            async with asyncio.timeout(_CONNECT_SECONDS):
                token = await reader.readexactly(_TOKEN_BYTES)
            if hmac.compare_digest(token, self._token):
                self._writers.append(writer)
                await self._hear(reader, None)
        writer.close()

    async def _call(self, port: int) -> None:
        """Any other rank: listen to rank 0."""
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            print(
                f"warning: rank {self._rank} cannot reach rank 0 at {host}:{port} "
                f"({error or 'no answer'}): should it die or hang, the others will not know which",
                file=sys.stderr,
            )
            return
        self._judge.hear(0, Report(0, 0, "start", "running", "", host))
        writer.write(self._token)
        self._writers.append(writer)
        hearing = asyncio.create_task(self._hear(reader, 0))
        await self._watch()
        hearing.cancel()
        writer.close()

    async def _hear(self, reader: asyncio.StreamReader, rank: int | None) -> None:
        """Take a rank's reports until its connection ends; follow rank 0's verdict."""
        with contextlib.suppress(OSError):
            async for line in reader:
                rank, report, verdict = json.loads(line)
                self._judge.hear(rank, Report(*report))
                if rank == 0 and verdict is not None:
                    self._end(Verdict(*verdict))
        if rank is not None:
            self._judge.lose(rank)

    async def _watch(self) -> None:
        """Report and judge once a tick until the block is left."""
        while not self._leaving.is_set():
            report = self._own_report()
            if self._rank == 0:
                self._judge.hear(0, report)
            verdict = self._judge.tick()
            await self._tell(report, verdict)
            if verdict is not None:
                self._end(verdict)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tick):
                    await self._leaving.wait()
        await self._tell(self._own_report(), None)

    async def _tell(self, report: Report, verdict: Verdict | None) -> None:
        line = json.dumps([self._rank, report, verdict]).encode() + b"\n"
        for writer in self._writers:
            if not writer.is_closing():
                writer.write(line)
        if verdict is not None or report.state in ("done", "failed"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE / 2):
                    drains = (writer.drain() for writer in self._writers)
                    await asyncio.gather(*drains, return_exceptions=True)

    def _own_report(self) -> Report:
        host = socket.gethostname()
        return Report(self._marks, self.step, self._section, self._state, self._words, host)

    def _end(self, verdict: Verdict) -> None:
        local_rank = self._accelerator.local_process_index
        is_next = local_rank == 1 and verdict.rank in (self._rank - 1, None)
        if local_rank == 0 or is_next:
            print(f"error: {verdict.message}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _is_lost_connection(error: BaseException) -> bool:
    """Tell whether a collective failed, as it does where another rank is gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)

"""What the ranks of a run report of themselves, and which of them it shows to be at fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

# cut: a collective failed, as it does where another rank is gone; failed: an error of its own.
State = Literal["running", "cut", "failed", "done"]

_ALL_END = "all ranks end; go on with --resume"


class Report(NamedTuple):
    """Where a rank's main thread is.

    Attributes:
        marks: how many it has made: of two ranks the one with fewer is behind.
        words: the error, where it is cut or failed.
    """

    marks: int
    step: int
    section: str
    state: State
    words: str
    host: str


class Verdict(NamedTuple):
    """Why all ranks are to end.

    Attributes:
        rank: the one at fault; None: not known.
    """

    rank: int | None
    message: str


@dataclass
class _Watched:
    last: Report
    silent: float = 0.0
    unmoved: float = 0.0
    behind: float = 0.0
    out: float = 0.0
    connected: bool = True


class RankJudge:
    """Keeps every rank's last report and finds the one that keeps the others waiting.

    Time is counted in ticks of its own: a clock would run on while this process itself stands.
    Ranks that never reported are not judged.
    """

    def __init__(self, timeout: float, tick: float, grace: float) -> None:
        """Know of no rank yet.

        Args:
            timeout: seconds without a report, or without a move while others are ahead.
            tick: seconds between two calls of `tick`.
            grace: seconds that a rank with an error of its own has to end by itself.
        """
        self.patience = grace + 5 * tick
        self._timeout = timeout
        self._tick = tick
        self._grace = grace
        self._ranks: dict[int, _Watched] = {}

    def hear(self, rank: int, report: Report) -> None:
        """Take a rank's report."""
        watched = self._ranks.setdefault(rank, _Watched(report))
        if report.marks != watched.last.marks:
            watched.unmoved = watched.behind = 0.0
        watched.silent = 0.0
        watched.last = report

    def lose(self, rank: int) -> None:
        """Note that a rank's connection has ended."""
        if rank in self._ranks:
            self._ranks[rank].connected = False

    def tick(self) -> Verdict | None:
        """Let one tick pass; return the verdict where there is one."""
        first = max((self._ranks[rank].last.marks for rank in self._running()), default=0)
        for watched in self._ranks.values():
            watched.silent += self._tick
            watched.unmoved += self._tick
            if watched.last.marks < first:
                watched.behind += self._tick
            if watched.last.state in ("cut", "failed"):
                watched.out += self._tick
        return (
            self._ended() or self._failed() or self._silent() or self._behind() or self._cut_off()
        )

    def _ended(self) -> Verdict | None:
        for rank, watched in self._ranks.items():
            if watched.last.state == "running" and not watched.connected:
                return Verdict(
                    rank,
                    f"{self._name(rank)} has ended, last seen in {self._place(rank)}; {_ALL_END}",
                )
        return None

    def _failed(self) -> Verdict | None:
        for rank, watched in self._ranks.items():
            if watched.last.state == "failed" and watched.out > self._grace:
                place = self._place(rank)
                return Verdict(
                    rank, f"{self._name(rank)} failed in {place}: {watched.last.words}; {_ALL_END}"
                )
        return None

    def _silent(self) -> Verdict | None:
        for rank, watched in self._ranks.items():
            if watched.last.state == "running" and watched.silent > self._timeout:
                return Verdict(
                    rank,
                    f"{self._name(rank)} has given no sign of life for {self._timeout:g} s "
                    f"(compute.rank_timeout), last in {self._place(rank)}; {_ALL_END}",
                )
        return None

    def _behind(self) -> Verdict | None:
        """Return the verdict on the rank that has come least far, where others wait for it."""
        for rank in self._running():
            if self._ranks[rank].behind > self._timeout:
                return self._not_moved(rank)
        return None

    def _cut_off(self) -> Verdict | None:
        """Return the verdict where collectives have failed and nothing else tells why."""
        cut = [w for w in self._ranks.values() if w.last.state == "cut"]
        if not any(watched.out > self.patience for watched in cut):
            return None
        still = [rank for rank in self._running() if self._ranks[rank].unmoved > self.patience]
        if still:
            return self._not_moved(still[0])
        return Verdict(None, f"the ranks lost each other: {cut[0].last.words}; {_ALL_END}")

    def _running(self) -> list[int]:
        """Return the ranks that are at work, those that have come least far first."""
        running = [rank for rank, w in self._ranks.items() if w.last.state == "running"]
        return sorted(running, key=lambda rank: (self._ranks[rank].last.marks, rank))

    def _not_moved(self, rank: int) -> Verdict:
        return Verdict(
            rank,
            f"{self._name(rank)} has not moved for {self._ranks[rank].unmoved:.0f} s "
            f"(compute.rank_timeout) in {self._place(rank)}; {_ALL_END}",
        )

    def _name(self, rank: int) -> str:
        return f"rank {rank} on {self._ranks[rank].last.host}"

    def _place(self, rank: int) -> str:
        last = self._ranks[rank].last
        return f"step {last.step:,}, {last.section}"

"""Which way to reuse an encoder is taken: decided inside the labels, one comparison at a time.

Shapes: N rows held out, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.attempts import Attempt, Attempts
from downstream.heads.problems import ChosenInside, held_out_folds
from downstream.modes import Auto, DepthSearch, Frozen, Full, Gradual, SingleMode
from models.outputs import Classes
from training.randomness import derive_seed


@dataclass(frozen=True)
class Decision:
    """One comparison.

    Fields:
        attempt: what was tried, in words.
        accuracy: of held-out labels, a fraction; None where a model does not name one class.
        nll: their mean loss, in nats.
        gain: in accuracy, or else the fall of the loss, from the best before it, with its paired
            standard error; None for the first.
        kept: whether it is taken so far.
    """

    attempt: str
    accuracy: float | None
    nll: float
    gain: float | None
    error: float | None
    kept: bool

    def __str__(self) -> str:
        change = ""
        if self.accuracy is None:
            text = f"{self.attempt}: loss {self.nll:.4f} on held-out labels"
            if self.gain is not None and self.error is not None:
                change = f" ({-self.gain:+.4f} ± {self.error:.4f})"
        else:
            text = f"{self.attempt}: {100 * self.accuracy:.1f} % of held-out labels right"
            if self.gain is not None and self.error is not None:
                change = f" ({100 * self.gain:+.1f} ± {100 * self.error:.1f})"
        taken = "kept" if self.kept else "not kept"
        if self.gain is not None and self.kept and self.gain <= 0:
            taken += ", not clearly worse"
        elif self.gain is not None and not self.kept and self.gain > 0:
            taken += ", not clearly better"
        return f"{text}{change}, {taken}"


@dataclass(frozen=True)
class Chosen:
    """The mode and the attempt of it that is taken, with the logits that speak for it.

    Fields:
        attempt: its name; None: the first.
        logits: [N, K] of the held-out rows, and labels [N]; none where none could be held out.
    """

    mode: SingleMode
    attempt: str | None
    logits: Tensor | None
    labels: Tensor | None


class _Expected(IntEnum):
    """How well an attempt is expected to do before any label is seen, the better the more.

    Between are all frozen stages, and all stages trained under a new head: each is better than the
    other on some images, and stages unfrozen under a fitted head are near the better one.
    """

    FEWER_STAGES = 0
    BETWEEN = 1
    UNFROZEN = 2


@dataclass(frozen=True)
class _Scored:
    mode: SingleMode
    attempt: str
    logits: Tensor
    expected: _Expected


class Decider:
    """Compares attempts on the parts of the labels that are held out in turn."""

    def __init__(
        self,
        attempts: Attempts,
        rows: NDArray[np.int64],
        validation: ChosenInside,
        *,
        seed: int,
        say: Callable[[Decision], None],
    ) -> None:
        """Divide the labels.

        Args:
            rows: of the training set, whose labels may be seen.
            say: told of each decision as it is made.
        """
        self._attempts, self._rows, self._seed, self._say = attempts, rows, seed, say
        labels = attempts.data.labels[torch.from_numpy(rows)]
        strata = attempts.output.strata(labels)
        folds = held_out_folds(strata[None], validation, [derive_seed(seed, "train/folds")])
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        if folds is not None:
            fold = folds[0].numpy()
            self._parts = [(rows[fold != k], rows[fold == k]) for k in range(int(fold.max()) + 1)]
        held_out = [torch.from_numpy(held) for _, held in self._parts]
        self._labels = attempts.data.labels[torch.cat(held_out)] if held_out else None
        self._best: _Scored | None = None

    def decide(self, mode: SingleMode | Auto, num_labels: int) -> Chosen:
        """Return what to do with all labels."""
        if self._labels is None:
            return Chosen(Frozen() if isinstance(mode, Auto) else mode, None, None, None)
        if not isinstance(mode, Auto):
            self._try(mode)
        else:
            if not self._try(Gradual()) and num_labels < mode.many_labels:
                self._try(DepthSearch())
            self._try(Full())
        assert self._best is not None
        return Chosen(self._best.mode, self._best.attempt, self._best.logits, self._labels)

    def learn(self, chosen: Chosen) -> Attempt:
        """Return the chosen attempt, learnt from all labels."""
        seed = derive_seed(self._seed, "train/final")
        for attempt in self._attempts.of(chosen.mode, self._rows, seed):
            if chosen.attempt in (None, attempt.name):
                return attempt
        raise AssertionError(f"{chosen.mode} never came to {chosen.attempt!r}")

    def _try(self, mode: SingleMode) -> bool:
        """Compare a mode's attempts with the best; return whether a later one than its first won.

        Stages are unfrozen only as long as that pays.
        """
        improved = False
        for number, scored in enumerate(self._scored(mode)):
            kept = self._compare(scored)
            improved = improved or (kept and number > 0)
            if isinstance(mode, Gradual) and number > 0 and not kept:
                break
        return improved

    def _scored(self, mode: SingleMode) -> Iterator[_Scored]:
        """Yield the attempts of a mode, each with the logits of all parts."""
        runs = [
            self._attempts.of(mode, train, derive_seed(self._seed, "train/part", number))
            for number, (train, _) in enumerate(self._parts)
        ]
        images = self._attempts.data.images
        for number, attempts in enumerate(zip(*runs, strict=True)):
            logits = [
                self._attempts.logits(attempt, images, held_out)
                for attempt, (_, held_out) in zip(attempts, self._parts, strict=True)
            ]
            expected = _expected(mode, first=number == 0)
            yield _Scored(mode, attempts[0].name, torch.cat(logits), expected)

    def _compare(self, scored: _Scored) -> bool:
        labels, best, output = self._labels, self._best, self._attempts.output
        assert labels is not None
        worth = self._attempts.worth(scored.logits, labels)
        gain = error = None
        kept = best is None
        if best is not None:
            difference = worth - self._attempts.worth(best.logits, labels)
            gain = float(difference.mean())
            error = float(difference.std(correction=0)) / math.sqrt(len(labels))
            # With few labels the error is larger than what there is to gain: then the attempt is
            # taken that is expected to do better. Of equals, the first costs the least.
            sign = (scored.expected < best.expected) - (scored.expected > best.expected)
            kept = gain > sign * error
        nll = float(output.losses(scored.logits, labels).mean())
        accuracy = float(worth.mean()) if isinstance(output, Classes) else None
        self._say(Decision(scored.attempt, accuracy, nll, gain, error, kept))
        if kept:
            self._best = scored
        return kept


def _expected(mode: SingleMode, *, first: bool) -> _Expected:
    match mode:
        case DepthSearch() if not first:
            return _Expected.FEWER_STAGES
        case Gradual() if not first:
            return _Expected.UNFROZEN
        case _:
            return _Expected.BETWEEN

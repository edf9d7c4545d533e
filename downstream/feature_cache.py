"""Features of labelled images on disk: computed once, then mapped.

Shapes: R rows of a split, F features, K features after a transform.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray
from torch import Tensor

from data.spread import evenly_spread
from downstream.features import (
    FeaturesConfig,
    drawn_copy,
    extract,
    feature_count,
    images_at_once,
)
from downstream.inputs import LabelledImages
from downstream.projection import Projection, fit_projection
from downstream.write_once import write_once
from models.encoders import Encoder

FITTED_IMAGES = 10_000


@dataclass(frozen=True)
class FeatureCache:
    """One encoder's features of images, each kept as a file that appears only when it is whole.

    Processes may compute the same features at once: each writes a file of its own, and that of the
    first to end is kept.

    Fields:
        folder: where the files are.
        encoder: tells its weights from any other's; make_encoder: called where there is no file.
        training: what a transform is fitted on, without the labels.
        device: where features are computed.
    """

    folder: Path
    encoder: str
    make_encoder: Callable[[], Encoder]
    config: FeaturesConfig
    training: LabelledImages
    device: torch.device

    def features(
        self, split: LabelledImages, rows: NDArray[np.int64], *, copy: int | None = None
    ) -> NDArray[np.float32]:
        """Return the features [R, F or K] of some rows, ascending, of a split: a mapped array.

        Args:
            copy: the number of a changed copy of each image; None: the images themselves.
        Raises:
            InputError: a transform is asked for, and no training image differs from another.
        """
        rows_hash = hashlib.sha256(np.ascontiguousarray(rows, "<i8").tobytes()).hexdigest()
        which = {} if copy is None else {"copy": str(copy)}
        path = self._path(".npy", images=split.fingerprint, rows=rows_hash, **which)
        if not path.exists():
            encoder = self.make_encoder().to(self.device)
            projection = self._projection(encoder)
            blocks: Iterable[Tensor] = self._blocks(encoder, split.images, rows, copy)
            width = feature_count(encoder.output_shapes, self.config)
            if projection is not None:
                blocks = map(projection.apply, blocks)
                width = projection.directions.shape[1]
            write_once(path, lambda file: _write_rows(file, blocks, (len(rows), width)))
        # Copy on write: torch has no read-only tensors.
        loaded: NDArray[np.float32] = np.load(path, mmap_mode="c", allow_pickle=False)
        return loaded

    def _projection(self, encoder: Encoder) -> Projection | None:
        """Return the transform, fitted now if it was not before; None where there is none."""
        if self.config.transform == "none":
            return None
        path = self._path(".npz")
        if not path.exists():
            images = self.training.images
            fitted = fit_projection(
                self._blocks(encoder, images, evenly_spread(len(images), FITTED_IMAGES)),
                self.config.transform,
                components=self.config.components,
            )
            mean, directions = fitted.mean.cpu().numpy(), fitted.directions.cpu().numpy()
            write_once(path, lambda file: np.savez(file, mean=mean, directions=directions))
        with np.load(path, allow_pickle=False) as found:
            return Projection(
                *(torch.from_numpy(found[name]).to(self.device) for name in ("mean", "directions"))
            )

    def _blocks(
        self, encoder: Encoder, images: Tensor, rows: NDArray[np.int64], copy: int | None = None
    ) -> Iterator[Tensor]:
        changes = None if copy is None else drawn_copy(self.config, len(images), copy)
        for part in torch.from_numpy(rows).split(images_at_once(encoder)):
            change = None if changes is None else changes.at(part, self.device)
            yield extract(encoder, images[part].to(self.device), self.config, change)

    @property
    def origin(self) -> dict[str, Any]:
        """What tells these features of an image from any other features of it, fit for JSON."""
        # std_floor acts after the cache, and how many copies there are is no matter of one.
        settings = self.config.model_dump(mode="json", exclude={"std_floor", "copies"})
        origin: dict[str, Any] = {"encoder": self.encoder, "features": settings}
        if self.config.transform != "none":
            origin["fitted on"] = [self.training.fingerprint, FITTED_IMAGES]
        return origin

    def _path(self, suffix: str, **of: str) -> Path:
        key = json.dumps({**self.origin, **of}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{suffix}"


def features_folder(runs_dir: str | Path) -> Path:
    """Return where the studies below `runs_dir` keep their features."""
    return Path(runs_dir, ".cache", "features")


def cache_size(folder: Path) -> str | None:
    """Return in one line how many features a folder keeps; None where there are none."""
    sizes = [path.stat().st_size for path in folder.glob("[!.]*")]
    if not sizes:
        return None
    unit, name = (1e9, "GB") if sum(sizes) >= 1e9 else (1e6, "MB")
    return f"features: {len(sizes)} files, {sum(sizes) / unit:.1f} {name} in {folder}"


def _write_rows(file: BinaryIO, blocks: Iterable[Tensor], shape: tuple[int, int]) -> None:
    write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    # Written, not mapped: a full disk then raises an error instead of killing the process.
    for block in blocks:
        file.write(block.cpu().numpy().astype("<f4", copy=False).tobytes())

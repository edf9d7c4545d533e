"""Make small tars and encoded images, good and bad ones."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Image8 = npt.NDArray[np.uint8]


def random_images(count: int, *shape: int, seed: int = 0) -> Image8:
    """Images [count, *shape] of smooth random shades, so that each differs from the others."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, *(-(-n // 4) if n > 3 else n for n in shape)))
    for axis, n in enumerate(shape, start=1):
        if n > 3:
            coarse = coarse.repeat(4, axis=axis).take(range(n), axis=axis)
    return coarse.astype(np.uint8)


def encode(pixels: Image8, form: str = "PNG", **options: object) -> bytes:
    """Encode [H, W] or [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def npy(array: npt.NDArray[np.generic], **options: bool) -> bytes:
    """Encode as .npy."""
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def write_tar(
    path: Path,
    members: Sequence[tuple[str | tarfile.TarInfo, bytes]],
    form: int = tarfile.USTAR_FORMAT,
) -> Path:
    """Write a tar with these members, in order."""
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_samples(path: Path, images: Image8, start: int = 0, classes: int = 3) -> Path:
    """Write PNG samples with keys 000000, 000001 ... and classes in turn."""
    members = []
    for number, image in enumerate(images, start):
        members += [
            (f"{number:06d}.png", encode(image)),
            (f"{number:06d}.cls", b"%d" % (number % classes)),
        ]
    return write_tar(path, members)

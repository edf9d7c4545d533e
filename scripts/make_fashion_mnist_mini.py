"""Make data/bundled/fashion_mnist_mini.npz from the IDX files of full Fashion-MNIST.

    python scripts/make_fashion_mnist_mini.py datasets/raw/fashion-mnist

The folder holds the four .gz files, as `python -m data fetch fashion-mnist` gets them. The file
written holds the first 8,000 training and the first 2,000 test images with their labels, and is
the same, byte for byte, whenever it is made with the same zlib.
"""

import argparse
import io
import itertools
import sys
import zipfile
from pathlib import Path

import numpy as np

from data.bundled_sets import BUNDLED_SETS
from data.errors import DataError
from data.sources_idx import IdxSource

NUM_IMAGES = {"train": 8_000, "test": 2_000}


def make_mini(folder: Path, out: Path) -> None:
    """Write the first images and labels of each split of `folder` to `out`."""
    source = IdxSource(folder)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for split, num_images in NUM_IMAGES.items():
            rows = list(itertools.islice(source.images(split), num_images))
            images = np.stack([row.image[0] for row in rows])
            labels = np.array([row.label for row in rows], np.uint8)
            for name, array in ((f"x_{split}", images), (f"y_{split}", labels)):
                file = io.BytesIO()
                np.lib.format.write_array(file, array, allow_pickle=False)
                member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: the same bytes every time
                member.compress_type = zipfile.ZIP_DEFLATED
                member.external_attr = 0o644 << 16
                archive.writestr(member, file.getvalue(), compresslevel=9)


def main(argv: list[str] | None = None) -> int:
    """Read the command line, write the file and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, default=BUNDLED_SETS["fashion-mnist-mini"][0])
    args = parser.parse_args(argv)
    try:
        make_mini(args.folder, args.out)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

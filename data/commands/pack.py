"""`python -m data pack`: images into shards."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from data.commands.command import add_command, counts_in_words

_TEXT = """\
Pack images into tar shards (train-000000.tar ..., test-...) with a dataset.json.

SOURCE is one of
  fashion-mnist-mini   the bundled set: 8,000 training and 2,000 test images
  x.npz                uint8 arrays x_train, y_train, x_test, y_test, or those of MedMNIST, or
                       images with optional labels; images are [N, H, W],
                       [N, H, W, C] or [N, C, H, W]
  x.npy                such an array of images, without labels
  a folder of IDX files, plain or .gz: train-images-idx3-ubyte, train-labels-idx1-ubyte, and
                       t10k-... for the test split; an about.json may name the classes
  a folder of CIFAR-10 or -100 files (binary or Python), of STL-10 files, or of SVHN's .mat files
  x.parquet            or a folder of them, as Hugging Face writes them
  a folder of images   a subfolder per class, optionally below train/, val/, test/, unlabeled/; or
                       flat, without labels, or with those of --labels
  x.zip, x.tar         an archive of such a folder; a tar must not be compressed
  x.tar, 'x-*.tar'     WebDataset shards, or a folder of them, to be packed anew; a single tar is
                       one if anything in it ends in .cls, or its images lie in no subfolders

Images must be of one size; --size N scales the short side to N and crops the middle. If any is
in colour, all get 3 channels; arrays (.npy, .npz) may have any number. The set in DIR appears at
the end, whole; the same images and options give the same bytes, and packing what is there already
does nothing. After a kill the same command goes on with the shards that were finished."""

_EXAMPLES = """\
examples:
  python -m data pack fashion-mnist-mini --out datasets/fashion-mnist-mini
  python -m data pack photos/ --out datasets/photos --size 64
  python -m data pack digits.npz --out datasets/digits"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    pack = add_command(
        commands, "pack", short="pack images into shards", text=_TEXT, examples=_EXAMPLES
    )
    pack.add_argument("source", metavar="SOURCE", help="bundled name, file or folder, see above")
    pack.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write")
    pack.add_argument("--size", metavar="N", type=int, help="make every image N x N pixels")
    pack.add_argument(
        "--labels",
        metavar="CSV",
        type=Path,
        help="key,label of a folder's or archive's images by path; subfolders then name no classes",
    )
    pack.add_argument(
        "--classes", metavar="A,B,...", help="pack these alone, by names or numbers, from 0 on"
    )
    pack.add_argument(
        "--encode",
        choices=("png", "jpeg", "webp", "keep"),
        default="png",
        help="png (default, without loss), jpeg, webp, or keep: such files as they are",
    )
    pack.add_argument("--quality", metavar="Q", type=int, help="of jpeg and webp, 1 to 100 (90)")
    pack.add_argument(
        "--shard-size",
        metavar="N",
        default="1000",
        help="samples in a shard (1000), or the most bytes of one, such as 256MB",
    )
    pack.add_argument(
        "--test-share",
        metavar="SHARE",
        type=float,
        help="make this share of the images, by a hash of their names, the test split",
    )
    pack.add_argument(
        "--group-copies",
        action="store_true",
        help="with --test-share: exact and near copies of one another all become test images or "
        "none; every image is compared with every other",
    )
    pack.add_argument(
        "--workers", metavar="N", type=int, default=1, help="processes that encode (1)"
    )
    pack.add_argument("--overwrite", action="store_true", help="replace another set in DIR")
    pack.add_argument(
        "--on-bad",
        choices=("fatal", "skip"),
        default="fatal",
        help="an image that does not decode stops the packing (default) or is named and left out",
    )
    pack.add_argument(
        "--max-bad-share",
        metavar="SHARE",
        type=float,
        default=0.01,
        help="with --on-bad skip: the largest share that may be left out (0.01)",
    )
    pack.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from data.npy import channels_in_words
    from data.pack import pack
    from data.progress import Progress
    from data.sources import Source

    start = time.monotonic()
    progress: Progress | None = None

    def on_start(source: Source) -> None:
        nonlocal progress
        of = "images, of which some are packed" if args.classes else "images"
        print(f"packing {source.name}: {counts_in_words(source.counts)} {of}", flush=True)
        progress = Progress("packing", sum(source.counts.values()))

    def on_image() -> None:
        if progress is not None:
            progress.step()

    if Path(args.source).exists():
        print(f"reading {args.source}", flush=True)
    try:
        result = pack(
            args.source,
            args.out,
            size=args.size,
            labels=args.labels,
            classes=args.classes.split(",") if args.classes else None,
            encode=args.encode,
            quality=args.quality,
            shard_size=args.shard_size,
            test_share=args.test_share,
            group_copies=args.group_copies,
            workers=args.workers,
            overwrite=args.overwrite,
            on_bad=args.on_bad,
            max_bad_share=args.max_bad_share,
            on_start=on_start,
            on_image=on_image,
        )
    finally:
        if progress is not None:
            progress.close()
    for left_out in result.left_out:
        print(f"left out: {left_out}")
    info = result.info
    channels, height, width = info.image_shape
    labels = f"{len(info.classes)} classes" if info.classes else "no labels"
    shards = sum(len(names) for names in info.shards.values())
    how = "was there already" if result.reused else f"written in {time.monotonic() - start:.1f} s"
    print(
        f"{result.folder}: {counts_in_words(info.counts)} images of {width} x {height} pixels in "
        f"{channels_in_words(channels)}, {labels}, "
        f"{shards} shard{'' if shards == 1 else 's'}; {how}"
    )
    print(f"next: python -m data verify {shlex.quote(str(args.out))}")
    return 0

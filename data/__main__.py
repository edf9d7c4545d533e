"""The command line `python -m data`: pack, verify, audit and fetch."""

import argparse
import errno
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from data import audit_command
from data.errors import DataError
from pages.errors import PageError

if TYPE_CHECKING:
    from data.verify import VerifyReport

_MAX_ENDINGS = 10

_DESCRIPTION = """\
Images in, shards out.

  pack    pack images into WebDataset shards with a dataset.json
  verify  read and decode every sample, and name the bad ones
  audit   find test images of which copies are learned from
  fetch   get full Fashion-MNIST

`python -m data COMMAND --help` explains each."""

_PACK = """\
Pack images into tar shards (train-000000.tar ..., test-...) with a dataset.json.

SOURCE is one of
  fashion-mnist-mini   the bundled set: 8,000 training and 2,000 test images
  x.npz                uint8 arrays x_train, y_train, x_test, y_test, or those of MedMNIST, or
                       images with optional labels; images are [N, H, W],
                       [N, H, W, C] or [N, C, H, W]
  a folder of IDX files, plain or .gz: train-images-idx3-ubyte, train-labels-idx1-ubyte, and
                       t10k-... for the test split; an about.json may name the classes
  a folder of CIFAR-10 or -100 files (binary or Python), of STL-10 files, or of SVHN's .mat files
  x.parquet            or a folder of them, as Hugging Face writes them
  a folder of images   a subfolder per class, optionally below train/, val/, test/, unlabeled/; or
                       flat, without labels, or with those of --labels
  x.zip                an archive of such a folder
  x.tar, 'x-*.tar'     WebDataset shards, or a folder of them, to be packed anew

Images must be of one size; --size N scales the short side to N and crops the middle. If any is
in colour, all get 3 channels. The set in DIR appears at the end, whole; the same images and
options give the same bytes, and packing what is there already does nothing. After a kill the
same command goes on with the shards that were finished."""

_PACK_EXAMPLES = """\
examples:
  python -m data pack fashion-mnist-mini --out datasets/fashion-mnist-mini
  python -m data pack photos/ --out datasets/photos --size 64
  python -m data pack digits.npz --out datasets/digits"""

_VERIFY = """\
Read and decode every sample. Each bad one is named: shard, byte offset, key and reason. Of a
folder, counts, labels, shapes and checksums are compared with its dataset.json.

With --repair, the good samples of a set that is not good are written to another folder, in the
same order and shards, with a dataset.json if there was one. Members that are no image or class
number are left behind.

Ends with 0 if all is good or was repaired, 1 if anything is bad, 2 if the check or the repair
cannot be made."""

_VERIFY_EXAMPLES = """\
examples:
  python -m data verify datasets/fashion-mnist-mini
  python -m data verify 'shards/*.tar'
  python -m data verify 'shards/train-{000000..000031}.tar'
  python -m data verify datasets/photos --repair datasets/photos-repaired"""

_FETCH = """\
Get the 60,000 training and 10,000 test images of Fashion-MNIST as IDX files: from their official
address, else from the Debian package dataset-fashion-mnist (where apt-get is at hand; nothing is
installed, root is not needed). The contents are checked by sha256."""

_FETCH_EXAMPLES = """\
examples:
  python -m data fetch fashion-mnist
  python -m data fetch fashion-mnist --out /data/fashion-mnist"""


def build_parser() -> argparse.ArgumentParser:
    """The arguments of `python -m data`."""

    def add(name: str, short: str, text: str, examples: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=short,
            description=text,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    parser = argparse.ArgumentParser(
        prog="python -m data",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    pack = add("pack", "pack images into shards", _PACK, _PACK_EXAMPLES)
    pack.add_argument("source", metavar="SOURCE", help="bundled name, file or folder, see above")
    pack.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write")
    pack.add_argument("--size", metavar="N", type=int, help="make every image N x N pixels")
    pack.add_argument(
        "--labels",
        metavar="CSV",
        type=Path,
        help="key,label of a folder's or zip's images by path; subfolders then name no classes",
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
    pack.set_defaults(run=_pack)

    verify = add("verify", "check every sample of shards", _VERIFY, _VERIFY_EXAMPLES)
    verify.add_argument(
        "targets", metavar="FOLDER|GLOB", nargs="+", help="a packed folder, or shards"
    )
    verify.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="processes that share the shards (default: one per core, fewer for small sets)",
    )
    verify.add_argument(
        "--repair", metavar="OUT", type=Path, help="write the good samples to this new folder"
    )
    verify.set_defaults(run=_verify)

    audit = add("audit", audit_command.SHORT, audit_command.TEXT, audit_command.EXAMPLES)
    audit_command.add_arguments(audit)
    audit.set_defaults(run=_audit)

    fetch = add("fetch", "get full Fashion-MNIST", _FETCH, _FETCH_EXAMPLES)
    fetch.add_argument("name", choices=("fashion-mnist",), help="the set to get")
    fetch.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("datasets/raw/fashion-mnist"),
        help="folder to write (datasets/raw/fashion-mnist)",
    )
    fetch.set_defaults(run=_fetch)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 1 for bad samples, 2 for what it cannot work with."""
    args = build_parser().parse_args(argv)
    args.typed = shlex.join(["python", "-m", "data", *(sys.argv[1:] if argv is None else argv)])
    try:
        return int(args.run(args))
    except (DataError, PageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        place = getattr(args, "out", None) or getattr(args, "repair", None) or "the output"
        print(
            f"error: no space left for {place} ({error.strerror}); "
            "nothing half-written is left, free some and run this again",
            file=sys.stderr,
        )
        return 2


def _pack(args: argparse.Namespace) -> int:
    from data.pack import pack
    from data.progress import Progress
    from data.sources import Source

    start = time.monotonic()
    progress: Progress | None = None

    def on_start(source: Source) -> None:
        nonlocal progress
        print(f"packing {source.name}: {_counts(source.counts)} images", flush=True)
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
            encode=args.encode,
            quality=args.quality,
            shard_size=args.shard_size,
            test_share=args.test_share,
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
        f"{result.folder}: {_counts(info.counts)} images of {width} x {height} pixels in "
        f"{'grey' if channels == 1 else 'colour'}, {labels}, "
        f"{shards} shard{'' if shards == 1 else 's'}; {how}"
    )
    print(f"next: python -m data verify {shlex.quote(str(args.out))}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from data.progress import Progress
    from data.repair import check_repair_folder
    from data.verify import verify

    if args.repair is not None:
        check_repair_folder(args.repair)  # before anything takes long
    with Progress("verifying", None) as progress:
        report = verify(
            args.targets,
            workers=args.workers,
            on_bad=lambda bad: progress.print(f"bad: {bad}"),
            on_samples=progress.step,
        )
    for problem in report.problems:
        print(f"bad: {problem}")
    rows: list[tuple[str, ...]] = [("split", "shards", "samples", "bad", "unlabeled", "classes")]
    for name, split in report.splits.items():
        classes = "-"
        if split.per_class:
            fewest, most = min(split.per_class.values()), max(split.per_class.values())
            each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
            classes = f"{len(split.per_class)} of {each} images"
        numbers = (split.shards, split.samples, split.bad, split.unlabeled)
        rows.append((name, *(f"{number:,}" for number in numbers), classes))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *middle = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *middle[:-1], row[-1]]))
    for name, split in report.splits.items():
        for suffix, count in split.passed_over.most_common(_MAX_ENDINGS):
            print(f"{name}: {count:,} members .{suffix} were passed over, unread")
        if (more := len(split.passed_over) - _MAX_ENDINGS) > 0:
            print(f"{name}: members with {more:,} other endings were passed over, unread")
    if not report.good:
        print(f"bad: {report.bad:,} samples, {len(report.problems):,} other problems")
        return 1 if args.repair is None else _repair(report, args.repair)
    print("good: every sample decodes")
    if report.info is not None:
        shards = shlex.quote(f"data.shards={Path(args.targets[0]) / 'train-*.tar'}")
        config = "configs/pretrain/quickstart.yaml"
        print(f"next: python -m pretrain {config} name={report.info.name} {shards}")
    return 0


def _repair(report: "VerifyReport", out: Path) -> int:
    from data.repair import repair

    result = repair(report, out)
    shards = sum(len(names) for names in result.shards.values())
    print(
        f"{out}: {_counts(result.counts)} good samples in {shards} "
        f"shard{'' if shards == 1 else 's'}; {report.bad:,} bad ones left out"
    )
    target = out if report.info is not None else out / "*.tar"
    print(f"next: python -m data verify {shlex.quote(str(target))}")
    return 0


def _audit(args: argparse.Namespace) -> int:
    from training.environment import project_version

    return audit_command.run(args, version=project_version())


def _fetch(args: argparse.Namespace) -> int:
    from data.fetch import fetch_fashion_mnist

    fetch_fashion_mnist(args.out, report=lambda line: print(line, flush=True))
    print(f"{args.out}: 60,000 training and 10,000 test images, checked by sha256")
    out = shlex.quote(str(args.out))
    print(f"next: python -m data pack {out} --out datasets/fashion-mnist")
    return 0


def _counts(counts: dict[str, int]) -> str:
    return " + ".join(f"{count:,} {split}" for split, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())

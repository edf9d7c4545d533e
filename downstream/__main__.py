"""The command line of stage two: `python -m downstream curve|depth|train|predict|embed|report`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

_CURVE = """\
Run a label-efficiency study: accuracy against the number of labels, for a pretrained encoder
and for controls that have not seen it.

Rows that are in runs_dir/name/results.jsonl already are kept and the missing ones are computed,
so the same command goes on with a study that was stopped. The study ends with summary.json,
the verdict, a table and report.html."""

_CURVE_EXAMPLES = """\
examples:
  python -m downstream curve configs/downstream/quickstart.yaml
  python -m downstream curve configs/downstream/quickstart.yaml name=mine \\
      encoder=runs/mine/encoder.safetensors
  python -m downstream curve configs/downstream/curve.yaml \\
      encoder='[runs/a/encoder.safetensors, runs/b/encoder.safetensors]' name=two-seeds
  python -m downstream curve configs/downstream/quickstart.yaml arms='[frozen, random_frozen]'

Exit status: 0 done, or stopped by SIGTERM or Ctrl-C; 2 bad input."""

_REPORT = """\
Write summary.json and report.html of a study from its rows, finished or not."""

_DEPTH = """\
How many stages to reuse: the accuracy of a linear head on the lowest one, two, ... frozen stages of
each encoder, and of a random one's. Writes depth.json and depth.svg, and prints a table.

The same command goes on with one that was stopped."""

_DEPTH_EXAMPLES = """\
examples:
  python -m downstream depth configs/downstream/depth.yaml
  python -m downstream depth configs/downstream/depth.yaml budget=100 \\
      encoders='{mine: runs/mine/encoder.safetensors}'"""

_TRAIN = """\
Train a classifier for use: decide inside the labels how the encoder is reused (frozen, unfrozen
from the top while that pays, fewer stages, all stages), learn from all of them, and write
runs_dir/name/model.safetensors. Every comparison is printed and kept in decisions.jsonl; with
data.test the model is scored at the end."""

_TRAIN_EXAMPLES = """\
examples:
  python -m downstream train configs/downstream/train.yaml labels=500
  python -m downstream train configs/downstream/train.yaml name=frozen mode='{kind: frozen}'
  python -m downstream train configs/downstream/train.yaml name=top \\
      mode='{kind: partial, from_stage: stage3}'"""

_PREDICT = """\
Write a CSV file with a trained classifier's prediction for every image of a folder, of an image
file, or of shards: file, prediction, confidence, error, and a probability for each class. An image
that cannot be used has its reason in the column `error`; the others are predicted all the same."""

_PREDICT_EXAMPLES = """\
examples:
  python -m downstream predict runs/train/model.safetensors path/to/photos --fit \\
      --out predictions.csv
  python -m downstream predict runs/train/model.safetensors 'datasets/mine/test-*.tar' \\
      --out predictions.csv --accuracy 0.95

Exit status: 0 done; 2 bad input, or no image that could be used."""

_EMBED = """\
Write an encoder's features of all images of some shards to a file, with their keys and, where
there are any, their labels (-1, or null, where one has none).

Images are read in order and encoded block by block: there may be more than memory holds. An
existing file is kept unless --overwrite is given; a new one appears at the end, whole.

  .npz      arrays keys [N], labels [N] and features [N, F], for numpy.load
  .parquet  columns key, label and features; needs pip install 'underlayer[parquet]'

key=value is one of a study's features.*, such as stages, grid, pooling, flip_average and views, or
channels, size, on_bad and max_bad_share of its data.*, or allow_external."""

_EMBED_EXAMPLES = """\
examples:
  python -m downstream embed runs/quickstart/encoder.safetensors \\
      'datasets/fashion-mnist-mini/test-*.tar' --out features.npz
  python -m downstream embed runs/quickstart/encoder.safetensors \\
      'datasets/fashion-mnist-mini/*.tar' --out features.parquet grid=1 stages='[stage3]'

Exit status: 0 done, or stopped by SIGTERM or Ctrl-C; 2 bad input."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m downstream",
        description="Reuse a pretrained encoder with few labels, and measure what it saves.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, short, text, examples in (
        ("curve", "run a label-efficiency study", _CURVE, _CURVE_EXAMPLES),
        ("depth", "measure how many stages to reuse", _DEPTH, _DEPTH_EXAMPLES),
        ("train", "train a classifier for use", _TRAIN, _TRAIN_EXAMPLES),
    ):
        study = commands.add_parser(
            name,
            help=short,
            description=text,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_config_arguments(study, resumes=name != "train")
    predict = commands.add_parser(
        "predict",
        help="use a trained classifier",
        description=_PREDICT,
        epilog=_PREDICT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument("model", metavar="MODEL", type=Path, help="a model.safetensors")
    predict.add_argument("images", metavar="IMAGES", help="a folder, an image, or shards")
    predict.add_argument("--out", metavar="CSV", type=Path, required=True, help="the file to write")
    predict.add_argument(
        "--fit", action="store_true", help="bring images to the size and channels of the model"
    )
    predict.add_argument(
        "--accuracy",
        metavar="SHARE",
        help="abstain (?) below the confidence from which so many were right, such as 0.95",
    )
    predict.add_argument("--overwrite", action="store_true", help="replace the file")
    predict.add_argument(
        "--allow-external",
        action="store_true",
        help="import and run the code that an encoder of kind external names",
    )
    embed = commands.add_parser(
        "embed",
        help="write an encoder's features of images to a file",
        description=_EMBED,
        epilog=_EMBED_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    embed.add_argument("encoder", metavar="ENCODER", type=Path, help="an encoder.safetensors")
    embed.add_argument(
        "shards", metavar="SHARDS", help="WebDataset tars: paths, globs or braces, as in a config"
    )
    embed.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the defaults"
    )
    embed.add_argument("--out", metavar="FILE", type=Path, required=True, help=".npz or .parquet")
    embed.add_argument("--overwrite", action="store_true", help="replace an existing file")
    report = commands.add_parser("report", help="write a study's report", description=_REPORT)
    report.add_argument("folder", metavar="RUN_DIR", type=Path, help="the folder of the study")
    return parser


def _add_config_arguments(study: argparse.ArgumentParser, *, resumes: bool) -> None:
    study.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file")
    study.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the file's"
    )
    how = study.add_mutually_exclusive_group()
    if resumes:
        how.add_argument(
            "--resume", action="store_true", help="go on with the study; that is done anyway"
        )
    how.add_argument("--overwrite", action="store_true", help="remove what is there first")
    study.add_argument(
        "--print-config", action="store_true", help="print every value resolved, and stop"
    )
    study.add_argument(
        "--schema", action="store_true", help="print the config's JSON Schema for editors, and stop"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    args, left = parser.parse_known_args(argv)
    if left:
        # Overrides that stand behind an option: argparse takes positionals in one piece only.
        takes_overrides = args.command not in ("predict", "report")
        if not takes_overrides or any(text.startswith("-") for text in left):
            parser.error(f"unrecognized arguments: {' '.join(left)}")
        args.overrides += left
    if hasattr(args, "config") and args.config is None and not args.schema:
        example = "quickstart" if args.command == "curve" else args.command
        parser.error(f"give a CONFIG, such as configs/downstream/{example}.yaml")

    # Only now: the imports take seconds, and --help needs none of them.
    from data.errors import DataError
    from models.errors import ModelError
    from pages.errors import PageError
    from training.errors import NO_SPACE, InputError

    try:
        if args.command == "report":
            print(f"wrote {_write_report(args.folder)}")
        elif args.command == "predict":
            return _predict(args)
        elif args.command == "embed":
            _embed(args)
        elif args.schema or args.print_config:
            _print_config(args)
        elif args.command == "depth":
            _depth(args)
        elif args.command == "train":
            _train(args)
        else:
            _curve(args)
    except (InputError, DataError, ModelError, PageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        where = error.filename or "the study's folder"
        print(
            f"error: no space left for {where} ({error.strerror}); rows that were written are "
            "kept, free some space and run the same command again",
            file=sys.stderr,
        )
        return 2
    return 0


def _print_config(args: argparse.Namespace) -> None:
    import json

    from downstream.config import CurveConfig
    from downstream.depth import DepthConfig
    from downstream.train_config import TrainConfig
    from training.config import dump_config, load_config

    models: dict[str, type[CurveConfig | DepthConfig | TrainConfig]] = {
        "curve": CurveConfig,
        "depth": DepthConfig,
        "train": TrainConfig,
    }
    model = models[args.command]
    if args.schema:
        print(json.dumps(model.model_json_schema(), indent=2))
    else:
        print(dump_config(load_config(model, args.config, args.overrides)), end="")


def _curve(args: argparse.Namespace) -> None:
    from downstream.config import CurveConfig
    from downstream.study import run_study
    from downstream.summary import summarize, summary_table
    from training.config import load_config

    config = load_config(CurveConfig, args.config, args.overrides)
    folder = run_study(config, overwrite=args.overwrite)
    if folder is None:
        _say_how_to_go_on(args)
        return
    report = _write_report(folder)
    summary = summarize(folder)
    print(f"\n{summary['verdict']}\n\n{summary_table(summary)}\n\nreport: {report}")
    _say_cache_size(config.runs_dir)


def _depth(args: argparse.Namespace) -> None:
    from downstream.depth import DepthConfig, depth_table, run_depth
    from downstream.depth_figure import depth_svg
    from training.config import load_config

    config = load_config(DepthConfig, args.config, args.overrides)
    depths = run_depth(config, overwrite=args.overwrite)
    if depths is None:
        _say_how_to_go_on(args)
        return
    folder = Path(config.runs_dir, config.name)
    picture = folder / "depth.svg"
    picture.write_text(depth_svg(depths, config.budget), encoding="utf-8")
    print(f"\n{depth_table(depths)}\n\nwrote {picture}")
    _say_cache_size(folder)


def _embed(args: argparse.Namespace) -> None:
    import os

    from downstream.embed import EmbedConfig, embed
    from training.config import load_config

    # A pattern that the shell has expanded is several paths.
    shards = [args.shards, *(text for text in args.overrides if "=" not in text)]
    overrides = [text for text in args.overrides if "=" in text]
    config = load_config(EmbedConfig, os.devnull, overrides)  # every key has a default
    done = embed(args.encoder, shards, args.out, config, overwrite=args.overwrite)
    if done is None:
        print("stopped; nothing was written")
        return
    labels = {0: "no labels", done.images: "labels"}.get(done.labelled, f"{done.labelled:,} labels")
    print(f"wrote {args.out}: {done.features:,} features of {done.images:,} images, {labels}")


def _say_cache_size(runs_dir: str | Path) -> None:
    from downstream.feature_cache import cache_size, features_folder

    if line := cache_size(features_folder(runs_dir)):
        print(line)


def _train(args: argparse.Namespace) -> None:
    from downstream.train import train_classifier
    from downstream.train_config import TrainConfig
    from training.config import load_config

    config = load_config(TrainConfig, args.config, args.overrides)
    print(f"wrote {train_classifier(config, overwrite=args.overwrite)}")


def _predict(args: argparse.Namespace) -> int:
    from downstream.predict import predict

    found = predict(
        args.model,
        args.images,
        args.out,
        fit=args.fit,
        accuracy=args.accuracy,
        overwrite=args.overwrite,
        allow_external=args.allow_external,
    )
    abstained = f", {found.abstained} abstained from" if args.accuracy else ""
    print(f"wrote {args.out}: {found.images - found.failed} predictions{abstained}")
    if found.failed:
        print(
            f"warning: {found.failed} of {found.images} images could not be used, the first: "
            f"{found.first_failure}",
            file=sys.stderr,
        )
    return 2 if found.failed == found.images else 0


def _say_how_to_go_on(args: argparse.Namespace) -> None:
    again = ["python", "-m", "downstream", args.command, args.config, *args.overrides]
    print(f"stopped; to go on: {shlex.join(again)}")


def _write_report(folder: Path) -> Path:
    from downstream.report import write_report
    from downstream.summary import write_summary

    write_summary(folder)
    return write_report(folder)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m downstream export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from downstream.commands.model_arguments import add_allow_external, add_model_command

_TEXT = """\
Write a trained classifier as an ONNX model: input `images` [batch, channels, height, width], output
calibrated `probabilities` [batch, classes], any number of images at once. Normalization is inside.
Classes, input contract and calibration are JSON in its metadata, below underlayer.*

It is compared with the model in onnxruntime, on random images and on real ones, and appears only if
they agree. Needs pip install -e '.[onnx]'."""

_EXAMPLES = """\
examples:
  python -m downstream export runs/train/model.safetensors --onnx model.onnx
  python -m downstream export runs/train/model.safetensors --onnx model.onnx --input float \\
      --images path/to/photos

Exit status: 0 done; 2 bad input, or a model that ONNX does not reproduce."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_model_command(
        commands,
        "export",
        short="write a trained classifier as ONNX",
        text=_TEXT,
        examples=_EXAMPLES,
    )
    command.add_argument(
        "--onnx", metavar="FILE", type=Path, required=True, help="the file to write"
    )
    command.add_argument(
        "--input",
        choices=("uint8", "float"),
        default="uint8",
        help="what images are: pixels as decoded (default), or these divided by 255",
    )
    command.add_argument(
        "--images",
        metavar="IMAGES",
        help="real images to compare on: a folder, an image, or shards; default: those that the "
        "model was trained on, where they still are",
    )
    command.add_argument("--overwrite", action="store_true", help="replace the file")
    add_allow_external(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, and say how far the file is from the model."""
    from downstream.export import export_onnx

    done = export_onnx(
        args.model,
        args.onnx,
        input_type=args.input,
        images=args.images,
        overwrite=args.overwrite,
        allow_external=args.allow_external,
    )
    real = f"{done.real} real ones" if done.real else "no real ones: --images names some"
    print(
        f"wrote {args.onnx}, {done.megabytes:.1f} MB; in onnxruntime its values differ from "
        f"the model's by at most {done.difference:.2g} on {done.random} random images and {real}"
    )
    return 0

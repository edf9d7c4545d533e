"""The command line around networks: `python -m models describe FILE`, `... diagnose CONFIG`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from models.artifact import ArtifactHeader
    from models.diagnosis_networks import DiagnosedNetwork
    from models.encoders import Encoder, InputContract
    from pretrain.config import PretrainConfig

_DIAGNOSE = """\
Write a page that shows how a network's fresh weights pass images forward and gradients back, and
where they vanish, explode, saturate or die: for the encoder of a pretraining config as it is, and
for each initializer with each activation, on a deep dense stack and on that encoder."""

_DIAGNOSE_EXAMPLES = """\
examples:
  python -m models diagnose configs/pretrain/quickstart.yaml --out diagnosis.html
  python -m models diagnose configs/pretrain/quickstart.yaml encoder.norm=none
  python -m models diagnose configs/pretrain/quickstart.yaml \\
      --initializers normal:std=0.05,orthogonal,lsuv --activations relu,gelu,selu

An initializer is a name, or a name with values such as uniform:bound=0.1. docs/diagnosis.md tells
how to read the page. Exit status: 0 the page is written, whatever it says; 2 bad input."""

_DESCRIBE = """\
Print what each stage of an encoder gives: the shape of its features, how much of the image a
position of them sees, and its parameters and operations for one image. The encoder is that of a
pretraining config, or a trained one, of which it also says what it was trained on and how."""

_DESCRIBE_EXAMPLES = """\
examples:
  python -m models describe configs/pretrain/quickstart.yaml
  python -m models describe configs/pretrain/quickstart.yaml encoder.kind=vit --size 64 --channels 3
  python -m models describe runs/quickstart/encoder.safetensors

Images of a config are those of data.shards where they are there, else of --size and --channels,
which also decide where they are given. docs/encoders.md tells how to read the table. Exit status:
0 printed, 2 bad input."""

_INITIALIZERS = "normal:std=1,normal:std=0.01,uniform,lecun_normal,glorot_normal,he_normal"
_ACTIVATIONS = "sigmoid,tanh,relu"
_MOST_IMAGES, _LEAST_IMAGES = 128, 16
_MOST_PIXELS = 2**22


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models", description="Look at networks, before they are trained or after."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    describe = commands.add_parser(
        "describe",
        help="see the stages of an encoder: shapes, fields, parameters, operations",
        description=_DESCRIBE,
        epilog=_DESCRIBE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(describe, "FILE", "YAML file of a pretraining run, or an encoder.safetensors")
    describe.add_argument("--size", metavar="PIXELS", type=int, help="of images (28)")
    describe.add_argument("--channels", metavar="N", type=int, help="of images (1)")
    diagnose = commands.add_parser(
        "diagnose",
        help="see why a network does or does not train",
        description=_DIAGNOSE,
        epilog=_DIAGNOSE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(diagnose, "CONFIG", "YAML file of a pretraining run")
    diagnose.add_argument(
        "--data", metavar="SHARDS", help="images in place of those of data.shards"
    )
    diagnose.add_argument(
        "--initializers", metavar="A,B", default=_INITIALIZERS, help=f"by name ({_INITIALIZERS})"
    )
    diagnose.add_argument(
        "--activations", metavar="A,B", default=_ACTIVATIONS, help=f"by name ({_ACTIVATIONS})"
    )
    diagnose.add_argument(
        "--out", type=Path, default=Path("diagnosis.html"), help="the page (diagnosis.html)"
    )
    return parser


def _add_config(command: argparse.ArgumentParser, metavar: str, what: str) -> None:
    command.add_argument("config", metavar=metavar, help=what)
    command.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the file's"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    args, left = parser.parse_known_args(argv)
    if any(text.startswith("-") for text in left):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    args.overrides += left  # those behind an option: argparse takes positionals in one piece only
    command = shlex.join(["python", "-m", "models", *(sys.argv[1:] if argv is None else argv)])

    # Only now: the imports take seconds, and --help needs none of them.
    from data.errors import DataError
    from models.errors import ModelError
    from pages.errors import PageError
    from training.errors import InputError

    try:
        if args.command == "describe":
            describe(args)
        else:
            diagnose(args, command)
    except (InputError, DataError, ModelError, PageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def describe(args: argparse.Namespace) -> None:
    """Print the table of an encoder's stages.

    Args:
        args: of the command `describe`.
    """
    from models.artifact import load_encoder, read_artifact
    from models.description import describe_stages, table
    from models.encoders import build_encoder
    from pretrain.config import PretrainConfig
    from training.config import load_config
    from training.errors import InputError
    from training.profiling import count_flops

    if Path(args.config).is_dir():
        raise InputError(
            f"{args.config}: is a folder; give a config, or the encoder.safetensors of a run"
        )
    if args.config.endswith(".safetensors"):
        if args.overrides or args.size is not None or args.channels is not None:
            raise InputError(
                f"{args.config}: a trained encoder is as it is; give no key=value, --size or "
                "--channels with it, or give a config"
            )
        encoder = load_encoder(args.config)
        _print_title(args.config, encoder, "those it was made for")
        print(table(describe_stages(encoder, count_flops), encoder.input))
        print(f"\n{_in_facts(read_artifact(args.config))}")
        return
    config = load_config(PretrainConfig, args.config, args.overrides)
    contract, origin = _described_images(config, args.size, args.channels)
    encoder = build_encoder(
        config.encoder.model_copy(update={"initializer": None}), contract, seed=config.seed
    )
    _print_title(config.name, encoder, origin)
    print(table(describe_stages(encoder, count_flops), contract))


def _print_title(name: str, encoder: Encoder, origin: str) -> None:
    contract = encoder.input
    shape = f"{contract.channels}x{contract.height}x{contract.width}"
    print(f"encoder of {name}: {encoder.config.kind}, on images of {shape} ({origin})\n")


def _in_facts(header: ArtifactHeader) -> str:
    """What an encoder was trained on, how, and what the run said of it at its end."""
    from downstream.source_labels import source_labels

    learned = header.trained_on
    objective = header.config.get("objective")
    told = {
        "objective": objective.get("kind") if isinstance(objective, dict) else None,
        "images": f"{learned.images:,} of {learned.dataset or 'an unnamed set'}",
        "learned from": source_labels(learned.model_dump()),
        "began as": (learned.model_dump().get("start") or {}).get("encoder"),
        "seed": header.seed,
        **header.metrics,
    }
    return "\n".join(f"{name}: {value}" for name, value in told.items() if value is not None)


def _described_images(
    config: PretrainConfig, size: int | None, channels: int | None
) -> tuple[InputContract, str]:
    """Return the shape of the images, and where it is from."""
    from data.errors import DataError
    from data.shards import expand_shards
    from models.encoders import InputContract
    from training.errors import InputError

    for key, value in (("--size", size), ("--channels", channels)):
        if value is not None and not 1 <= value <= 1024:
            raise InputError(f"{key}: found {value}; give a number from 1 to 1024")
    count, height, width = channels or 1, size or 28, size or 28
    origin = "--channels, --size"
    if size is None and channels is None:
        try:
            expand_shards(config.data.first_shards)
        except DataError:
            origin = "data.shards is not there; --channels and --size take others"
        else:
            count, height, width = config.data.open(config.data.first_shards).images.shape[1:]
            origin = "those of data.shards"
    ones = (1.0,) * count
    contract = InputContract(channels=count, height=height, width=width, mean=ones, std=ones)
    return contract, origin


def diagnose(args: argparse.Namespace, command: str) -> None:
    """Measure the networks that were asked for; write the page and print the verdicts.

    Args:
        args: of the command `diagnose`.
        command: what was called, for the page.
    """
    from models.diagnosis_networks import (
        STACK,
        combinations,
        diagnose_encoder,
        parse_activations,
        parse_initializers,
    )
    from models.diagnosis_page import render_diagnosis
    from pages.files import write_file
    from pretrain.config import PretrainConfig
    from pretrain.networks import input_contract
    from training.config import dump_config, load_config
    from training.environment import project_version
    from training.randomness import derive_seed

    initializers = parse_initializers(args.initializers.split(","))
    activations = parse_activations(args.activations.split(","))
    config = load_config(PretrainConfig, args.config, args.overrides)
    configs = {
        "Deep dense stack": combinations(STACK, initializers, activations),
        "The encoder, varied": combinations(config.encoder, initializers, activations),
    }
    store = config.data.open(args.data or config.data.first_shards)
    contract = input_contract(store.images)
    images = _sample(store.images)
    seed = derive_seed(config.seed, "encoder")  # the weights that a run starts with

    own = diagnose_encoder(config.encoder, contract, images, seed=seed)
    grids = {
        title: [diagnose_encoder(one, contract, images, seed=seed) for one in varied]
        for title, varied in configs.items()
    }
    page = render_diagnosis(
        own,
        grids,
        name=config.name,
        facts=[
            ("Encoder", config.encoder.kind),
            ("Norm", config.encoder.norm),
            ("Activation", config.encoder.activation),
            ("Initializer", own.initializer),
            ("Images", f"{len(images)} of {store.info.name if store.info else 'an unnamed set'}"),
            ("Seed", str(config.seed)),
        ],
        config_text=dump_config(config.encoder),
        command=command,
        version=project_version(),
    )
    write_file(args.out, page.encode())
    for title, networks in grids.items():
        print(f"{title}\n{_matrix(networks)}\n")
    print(_in_words(config.name, own))
    print(f"wrote {args.out}")


def _sample(images: Tensor) -> Tensor:
    """Float images in [0, 1], spread evenly over all; the fewer, the larger they are."""
    pixels = images.shape[-1] * images.shape[-2]
    most = min(_MOST_IMAGES, max(_LEAST_IMAGES, _MOST_PIXELS // pixels))
    return images[:: max(1, len(images) // most)][:most].float() / 255


def _matrix(networks: Sequence[DiagnosedNetwork]) -> str:
    """The verdicts as a table: a row for each initializer, a column for each activation."""
    from models.diagnosis import overall

    activations = list(dict.fromkeys(network.config.activation for network in networks))
    rows = {network.initializer: [network.initializer] for network in networks}
    for network in networks:
        rows[network.initializer].append(overall(network.layers)[0])
    lines = [["", *activations], *rows.values()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  " + "  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _in_words(name: str, own: DiagnosedNetwork) -> str:
    """The verdict on the encoder as configured, and what is wrong with which layer."""
    from models.diagnosis import overall

    verdict, extent = overall(own.layers)
    lines = [f"encoder of {name} ({own.initializer}, {own.config.activation}): {verdict}, {extent}"]
    for layer in own.layers:
        lines += [f"  {layer.name}: {kind}, {text}" for kind, text in layer.findings]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

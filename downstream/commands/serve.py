"""`python -m downstream serve`."""

from __future__ import annotations

import argparse
import signal
import sys

from downstream.commands.model_arguments import add_allow_external, add_model_command

_TEXT = """\
Serve a page on which images are dropped and a trained classifier's predictions come back, with the
nearest training images where --neighbours names their shards. Ends at Ctrl-C or SIGTERM.

It listens on this computer alone unless --host says otherwise; nothing protects it from those who
reach it then."""

_EXAMPLES = """\
examples:
  python -m downstream serve runs/train/model.safetensors
  python -m downstream serve runs/train/model.safetensors --port 0 \\
      --neighbours 'datasets/mine/train-*.tar'

Exit status: 0 ended by Ctrl-C or SIGTERM; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_model_command(
        commands,
        "serve",
        short="try a trained classifier on a local page",
        text=_TEXT,
        examples=_EXAMPLES,
    )
    command.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    command.add_argument("--port", type=int, default=8000, help="0: any that is free (%(default)s)")
    command.add_argument(
        "--neighbours", metavar="SHARDS", nargs="+", help="shards of the training images"
    )
    add_allow_external(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    from downstream.classify import open_classifier, square_side
    from downstream.nearest import open_training_images
    from downstream.predictor import Predictor
    from downstream.serve import PredictionServer

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        model = open_classifier(args.model, allow_external=args.allow_external)
        side = square_side(model.header.encoder.input, args.model)
        training = None
        if args.neighbours:
            training = open_training_images(model, args.neighbours, side=side)
        predictor = Predictor(model, side, training)
        with PredictionServer(predictor, args.host, args.port, name=str(args.model)) as server:
            if not server.on_loopback:
                print("warning: everybody who reaches this host can ask the model", file=sys.stderr)
            print(f"serving {args.model} at {server.url} until Ctrl-C", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        print("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0

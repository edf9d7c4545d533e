"""What pretraining and each arm cost: seconds, images passed through the encoder, operations."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from downstream.results import Row
from models.artifact import ArtifactHeader
from models.encoders import outline
from training.errors import InputError

# A backward pass takes about twice the operations of a forward pass.
TRAINING_PASSES = 3


def forward_flops(header: ArtifactHeader) -> int:
    """Return the floating-point operations of one image's way through an encoder.

    Multiplications and additions of convolutions and matrix products, counted apart.
    """
    contract = header.input
    encoder = outline(header.spec, contract).eval()
    device = next(encoder.parameters()).device
    image = torch.zeros(1, contract.channels, contract.height, contract.width, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(image)
    return int(counter.get_total_flops())


def pretraining_images(header: ArtifactHeader) -> int:
    """Return how many images pretraining has passed through an encoder, repeats counted.

    Raises:
        InputError: its artifact does not say.
    """
    images = header.metrics.get("images_seen")
    if not isinstance(images, int | float):
        raise InputError(
            "arms: scratch_equal_compute trains for as long as pretraining did, and the encoder's "
            "file does not say how many images that were (images_seen); leave the arm out"
        )
    return int(images)


def arm_costs(rows: Iterable[Row], flops_per_image: int) -> dict[str, dict[str, float]]:
    """Return per arm the seconds of all its rows added up.

    For arms that train the encoder also the images that it was trained on, repeats counted, and
    the operations in the encoder for that.
    """
    costs: dict[str, dict[str, float]] = {}
    for row in rows:
        cost = costs.setdefault(row.arm, {"rows": 0, "seconds": 0.0})
        cost["rows"] += 1
        cost["seconds"] += row.seconds
        if "images" in row.choices:
            cost["images"] = cost.get("images", 0) + row.choices["images"]
            cost["flops"] = TRAINING_PASSES * flops_per_image * cost["images"]
    return costs


def pretraining_cost(artifact: Path, header: ArtifactHeader) -> dict[str, Any]:
    """Return what is known of an encoder's pretraining: images, steps, and seconds from its log.

    The seconds are None where no run lies around the artifact.
    """
    log = artifact.parent / "log.jsonl"
    seconds = None
    if log.is_file():
        lines = [line for line in log.read_text(encoding="utf-8").splitlines(True) if "\n" in line]
        seconds = json.loads(lines[-1]).get("seconds") if lines else None
    return {
        "artifact": str(artifact),
        "seconds": seconds,
        "images": header.metrics.get("images_seen"),
        "steps": header.metrics.get("steps"),
    }

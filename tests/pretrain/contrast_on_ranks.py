"""A program of two ranks: each loss on codes of all ranks, and its gradient, against those of one.

Exits with an error where they differ.
"""

import torch
from torch import Tensor, nn

from pretrain.contrast import (
    BarlowTwinsConfig,
    Contrast,
    ContrastLossConfig,
    SimclrConfig,
    SwavConfig,
    VicregConfig,
)

LOSSES: list[ContrastLossConfig] = [
    SimclrConfig(),
    BarlowTwinsConfig(),
    VicregConfig(),
    SwavConfig(prototypes=5),
]
ROWS, FEATURES, WIDTH = 12, 6, 4


def loss_and_gradients(loss: ContrastLossConfig, rows: slice, *, alone: bool) -> list[Tensor]:
    """Return the loss on some rows, and its gradients by the projector and the prototypes."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, ROWS, FEATURES, generator=generator)
    projector = nn.Linear(FEATURES, WIDTH, bias=False)
    with torch.no_grad():
        projector.weight.copy_(torch.randn(WIDTH, FEATURES, generator=generator))
    contrast = Contrast(loss, WIDTH, seed=0)
    contrast.train(not alone)
    value, _ = contrast(projector(a[rows]), projector(b[rows]))
    value.backward()
    parameters = [projector.weight, *contrast.parameters()]
    return [value.detach(), *(p.grad for p in parameters if p.grad is not None)]


def main() -> None:
    torch.distributed.init_process_group("gloo")
    ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    share = ROWS // ranks
    for loss in LOSSES:
        whole = loss_and_gradients(loss, slice(ROWS), alone=True)
        mine = loss_and_gradients(loss, slice(rank * share, (rank + 1) * share), alone=False)
        for found, wanted in zip(mine, whole, strict=True):
            torch.distributed.all_reduce(found)
            torch.testing.assert_close(found / ranks, wanted, rtol=1e-4, atol=1e-5)
        if rank == 0:
            print(f"{loss.kind}: {ranks} ranks equal one")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

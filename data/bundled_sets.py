"""The sets of images that ship with the project, and what is known about Fashion-MNIST."""

from pathlib import Path

from data.sources import About
from data.sources_arrays import NpzSource

FASHION_MNIST = About(
    name="fashion-mnist",
    source="Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT, Copyright (c) 2017 Zalando SE, https://tech.zalando.com",
    classes=[
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ],
)

_FOLDER = Path(__file__).parent / "bundled"
BUNDLED_SETS: dict[str, tuple[Path, About]] = {
    "fashion-mnist-mini": (
        _FOLDER / "fashion_mnist_mini.npz",
        FASHION_MNIST.model_copy(
            update={
                "name": "fashion-mnist-mini",
                "source": "the first 8,000 training and first 2,000 test images of "
                f"{FASHION_MNIST.source}",
            }
        ),
    ),
}


def open_bundled(name: str, *, size: int | None = None) -> NpzSource:
    """Open a set of `BUNDLED_SETS` by its name."""
    path, about = BUNDLED_SETS[name]
    return NpzSource(path, size=size, about=about)

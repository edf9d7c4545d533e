"""Which set of images this is, told without decoding them where dataset.json knows it."""

from collections.abc import Sequence

from data.dataset import DatasetInfo


def packed_fingerprint(
    info: DatasetInfo | None, names: Sequence[str], *, channels: int | None, size: int | None
) -> str | None:
    """Return the fingerprint that a resident store of some shards has, as dataset.json says.

    Args:
        names: file names of the shards, sorted.
        channels, size: what images are brought to; None: as they are.
    Returns:
        None where it is not known: the shards are not one whole split, images are brought to
        another shape, or the set is older than these fingerprints.
    """
    if info is None or info.fingerprints is None:
        return None
    own, height, width = info.image_shape
    if channels not in (None, own) or (size is not None and (size, size) != (height, width)):
        return None
    for split, listed in info.shards.items():
        if list(names) == sorted(listed):
            return info.fingerprints.get(split)
    return None

"""Dividing images into training and test set by a hash of each image's name alone."""

import hashlib


def falls_in_test(name: str, share: float) -> bool:
    """Whether an image with this name is a test image, where a share of them, 0 to 1, is to be.

    It depends on nothing but the two, so an image stays where it is when others are added, and a
    larger share keeps all test images of a smaller one.
    """
    digest = hashlib.sha256(b"test share\0" + name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64

"""What arms that know no encoder see: an image's pixels, or descriptors made by hand."""

from torch import Tensor

from downstream.arms import Arm
from downstream.hog import hog


def image_features(arm: Arm, images: Tensor) -> Tensor:
    """Return float32 [N, F] of images uint8 [N, C, H, W]: pixels in [0, 1], or descriptors."""
    return hog(images) if arm == "hog_svm" else images.flatten(1).float().div_(255)

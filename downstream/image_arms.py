"""Arms that know no encoder: heads on an image's pixels, or on descriptors made by hand."""

from torch import Tensor

from downstream.config import Arm, CurveConfig
from downstream.heads.build import StudyHeadConfig
from downstream.heads.neighbours import NeighboursConfig
from downstream.heads.svm import SvmConfig
from downstream.hog import hog


def arm_head(arm: Arm, config: CurveConfig) -> StudyHeadConfig:
    """Return the head of an arm on fixed features: the configured one, or the one in its name."""
    match arm:
        case "raw_svm" | "hog_svm":
            return SvmConfig()
        case "raw_neighbours":
            return NeighboursConfig()
        case _:
            return config.head


def image_features(arm: Arm, images: Tensor) -> Tensor:
    """Return float32 [N, F] of images uint8 [N, C, H, W]: pixels in [0, 1], or descriptors."""
    return hog(images) if arm == "hog_svm" else images.flatten(1).float().div_(255)

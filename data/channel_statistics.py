"""Mean and standard deviation of each channel over many images, exactly: values are counted."""

import numpy as np
import numpy.typing as npt

_VALUES_AT_ONCE = 2**18  # numpy counts copies of 8 bytes a value


class ChannelStatistics:
    """Counts of the 256 values in each channel."""

    def __init__(self) -> None:
        self._counts_CV: npt.NDArray[np.int64] | None = None

    def add(self, image_CHW: npt.NDArray[np.uint8]) -> None:
        """Add an image, uint8 [C, H, W]; all have the same number of channels."""
        if self._counts_CV is None:
            self._counts_CV = np.zeros((len(image_CHW), 256), np.int64)
        for counts_V, plane in zip(self._counts_CV, image_CHW, strict=True):
            values = plane.ravel()
            for start in range(0, len(values), _VALUES_AT_ONCE):
                counts_V += np.bincount(values[start : start + _VALUES_AT_ONCE], minlength=256)

    def mean_and_std(self) -> tuple[list[float], list[float]] | None:
        """Per channel, of pixels scaled to 0 .. 1, to 6 digits; None without images."""
        if self._counts_CV is None:
            return None
        values = np.arange(256) / 255
        shares = self._counts_CV / self._counts_CV.sum(axis=1, keepdims=True)
        mean = shares @ values
        std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
        return [round(float(m), 6) for m in mean], [round(float(s), 6) for s in std]

"""What the segments before a JPEG's first scan say, by a walk from marker to marker.

ITU-T T.81, annex B.
"""

from dataclasses import dataclass

_EXIF = b"Exif\0\0"
_APP1, _SCAN = 0xE1, 0xDA
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # these three are tables and extensions
_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}
_MOST_SEGMENTS = 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """Whether there is EXIF, which may turn the image, and whether it comes in several scans.

    Where segments cannot be followed both are taken to be so: whoever reads it then looks closer.
    """

    exif: bool
    several_scans: bool


_UNKNOWN = Frame(exif=True, several_scans=True)


def read_frame(data: bytes) -> Frame:
    """Read the segments of a JPEG up to its first scan."""
    exif = progressive = False
    channels = 0
    place = 2
    for _ in range(_MOST_SEGMENTS):
        if len(data) < place + 10 or data[place] != 0xFF:
            return _UNKNOWN
        marker = data[place + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            place += 1
            continue
        if marker in _WITHOUT_LENGTH:
            return _UNKNOWN
        if marker == _SCAN:
            return Frame(exif, progressive or data[place + 4] != channels)
        if marker in _FRAMES:
            progressive, channels = marker in _PROGRESSIVE, data[place + 9]
        elif marker == _APP1:
            exif = exif or data.startswith(_EXIF, place + 4)
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return _UNKNOWN

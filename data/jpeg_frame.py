"""What the segments before a JPEG's first scan say, by a walk from marker to marker.

ITU-T T.81, annex B.
"""

from dataclasses import dataclass

_EXIF, _JFIF = b"Exif\0\0", b"JFIF\0"
_APP0, _APP1, _SCAN = 0xE0, 0xE1, 0xDA
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # these three are tables and extensions
_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}
_MOST_SEGMENTS = 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """What is said of a JPEG's pixels.

    Where segments cannot be followed it is the worst: whoever reads it then looks closer.

    Fields:
        exif: there is EXIF, which may turn the image.
        several_scans: it does not come in a single one.
        shape: (height, width, channels).
        standard: it is grey, or YCbCr by the rules of JFIF; False: that is to be found out.
    """

    exif: bool
    several_scans: bool
    shape: tuple[int, int, int]
    standard: bool


_UNKNOWN = Frame(exif=True, several_scans=True, shape=(0, 0, 0), standard=False)


def read_frame(data: bytes) -> Frame:
    """Read the segments of a JPEG up to its first scan."""
    exif = progressive = jfif = False
    shape = (0, 0, 0)
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
            channels = shape[2]
            standard = channels == 1 or (channels == 3 and jfif)
            return Frame(exif, progressive or data[place + 4] != channels, shape, standard)
        if marker in _FRAMES:
            progressive = marker in _PROGRESSIVE
            height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
            shape = int.from_bytes(height, "big"), int.from_bytes(width, "big"), data[place + 9]
        elif marker == _APP0:
            jfif = jfif or data.startswith(_JFIF, place + 4)
        elif marker == _APP1:
            exif = exif or data.startswith(_EXIF, place + 4)
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return _UNKNOWN

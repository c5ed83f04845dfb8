"""EXIF orientation: which way up an image is, numbers 1 to 8."""

from __future__ import annotations

from PIL import Image

from goodfit.data.store import Array

EXIF_ORIENTATION = 0x0112


def read_exif_orientation(tiff: bytes) -> int:
    """Read the orientation from an EXIF block (a TIFF header and its first directory), 1 if there is none."""
    if tiff[:2] not in (b"II", b"MM"):
        return 1

    def number(place: int, size: int) -> int:
        return int.from_bytes(tiff[place : place + size], "little" if tiff[:2] == b"II" else "big")

    start = number(4, 4)
    for entry in range(number(start, 2)):
        place = start + 2 + 12 * entry
        if place + 12 > len(tiff):
            break
        if number(place, 2) == EXIF_ORIENTATION:
            return parse_orientation(number(place + 8, 2))
    return 1


def parse_orientation(value: object) -> int:
    """Turn the value of an EXIF tag into an orientation from 1 to 8; anything else means upright."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def get_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an open image."""
    exif = image.info.get("exif")
    if image.format in ("JPEG", "MPO"):
        return read_exif_orientation(exif[6:]) if isinstance(exif, bytes) and exif.startswith(b"Exif\0\0") else 1
    if exif is None and image.format != "TIFF":
        return 1
    try:
        return parse_orientation(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block does not make the picture bad
        return 1


def orient_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Swap the two sides of an image if EXIF turns it by a quarter: from stored to upright, or back."""
    return size if orientation < 5 else (size[1], size[0])


def apply_orientation(pixels: Array, orientation: int) -> Array:
    """Turn and mirror pixels [H, W, C] as EXIF says."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels if rows == columns == 1 else pixels[::rows, ::columns]

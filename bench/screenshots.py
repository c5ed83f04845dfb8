"""Photograph pages as phones and desks show them, light and dark: python bench/screenshots.py FOLDER PAGE.html ..."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

WIDTHS = (390, 1280)  # pixels: a phone, a desk
SCHEMES = {"light": 1, "dark": 0}  # as Chromium numbers them
MAX_HEIGHT = 16_000  # pixels; what is below is not photographed
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def photograph(browser: str, page: Path, out: Path, width: int, scheme: int) -> int:
    """Write a PNG of a page, without the empty paper below it; returns its height in pixels."""
    subprocess.run(
        [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={out}",
            f"--window-size={width},{MAX_HEIGHT}", f"--blink-settings=preferredColorScheme={scheme}", page.resolve().as_uri(),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    with Image.open(out) as image:
        pixels = np.asarray(image)
        rows = np.flatnonzero((pixels != pixels[-1, 0]).any((1, 2)))
        height = int(rows[-1]) + 24 if len(rows) else MAX_HEIGHT
        image.crop((0, 0, image.width, min(height, MAX_HEIGHT))).save(out)
    return height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("pages", type=Path, nargs="+", help="HTML files, such as runs/*/report.html")
    given = parser.parse_args()
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"Expected one of {', '.join(BROWSERS)} on the PATH, found none.")
    given.folder.mkdir(parents=True, exist_ok=True)
    for page in given.pages:
        for width in WIDTHS:
            for name, scheme in SCHEMES.items():
                out = given.folder / f"{page.resolve().parent.name}-{page.stem}-{width}-{name}.png"
                print(f"{out}: {photograph(browser, page, out, width, scheme):,} pixels tall")


if __name__ == "__main__":
    main()

"""Makes the README's pictures of what the browser tests saw: `make pictures`.

screenshots/frames/*.png  ->  assets/tour.gif            screenshots/<screen>.png  ->  assets/screenshots/
"""

import shutil

from PIL import Image

from tests.browser.conftest import ROOT, SCREENSHOTS
from tests.browser.studio import FRAMES

_SHOWN = ("model", "plan", "prune")
_WIDTH, _MILLISECONDS, _COLOURS = 960, 2500, 128


def main() -> None:
    frames = [_small(Image.open(path)) for path in sorted(FRAMES.glob("*.png"))]
    first, *others = frames
    target = ROOT / "assets" / "tour.gif"
    first.save(target, save_all=True, append_images=others, duration=_MILLISECONDS, loop=0, optimize=True)
    for name in _SHOWN:
        shutil.copy(SCREENSHOTS / f"{name}.png", ROOT / "assets" / "screenshots")
    print(f"{target}: {len(frames)} frames, {target.stat().st_size:,} bytes")


def _small(picture: Image.Image) -> Image.Image:
    height = round(picture.height * _WIDTH / picture.width)
    small = picture.convert("RGB").resize((_WIDTH, height), Image.Resampling.LANCZOS)
    return small.quantize(_COLOURS, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()

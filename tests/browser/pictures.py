"""Makes the README's pictures of what the browser tests saw: `make pictures`.

screenshots/frames/*.png  ->  assets/tour.gif            screenshots/<screen>.png  ->  assets/screenshots/
"""

from PIL import Image

from tests.browser.conftest import ROOT, SCREENSHOTS
from tests.browser.studio import FRAMES

_SHOWN = {"model": 810, "plan": 1165, "prune": 1100}  # and how much of each, in pixels from the top
_WIDTH, _MILLISECONDS = 960, 2500


def main() -> None:
    frames = [_small(Image.open(path)) for path in sorted(FRAMES.glob("*.png"))]
    first, *others = frames
    target = ROOT / "assets" / "tour.gif"
    first.save(target, save_all=True, append_images=others, duration=_MILLISECONDS, loop=0, optimize=True)
    for name, height in _SHOWN.items():
        picture = Image.open(SCREENSHOTS / f"{name}.png")
        head = picture.convert("RGB").crop((0, 0, picture.width, height))
        head.save(ROOT / "assets" / "screenshots" / f"{name}.png", optimize=True)
    print(f"{target}: {len(frames)} frames, {target.stat().st_size:,} bytes")


def _small(picture: Image.Image) -> Image.Image:
    height = round(picture.height * _WIDTH / picture.width)
    small = picture.convert("RGB").resize((_WIDTH, height), Image.Resampling.LANCZOS)
    return small.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # keeps small spots of colour


if __name__ == "__main__":
    main()

"""Inputs for networks of four tasks, made here or out of packages: photographs, pages, lines of text, notes.

Photographs are crops of those that scikit-image and scikit-learn ship; text is from Python's own reference, rendered
with the fonts of Matplotlib.  All are arrays as the networks take them.  The same seed gives the same inputs.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
_PERSONS = 4
"""How many times as many crops are made of the first photograph, which shows a person."""
_FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "DejaVuSans-Bold.ttf")
_LETTERS = "abcdefghijklmnopqrstuvwxyz" * 3 + "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
RATE, WINDOW = 22050, 43844
"""Samples in a second, and in one input, of a network that transcribes notes."""


def photographs(count: int, rng: np.random.Generator, size: int = 320) -> Array:
    """Crops (count, 3, size, size) with entries from 0 to 1, half of them mirrored."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    whole = [Image.fromarray(image) for image in load_sample_images().images]
    spec = importlib.util.find_spec("skimage")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "data"
        files = [folder / name for name in _PHOTOGRAPHS for _ in range(_PERSONS if name == _PHOTOGRAPHS[0] else 1)]
        whole += [Image.open(file).convert("RGB") for file in files if file.exists()]
    crops = []
    for _ in range(count):
        image = whole[rng.integers(len(whole))]
        side = int(rng.uniform(0.4, 1.0) * min(image.size))
        left, top = rng.integers(image.width - side + 1), rng.integers(image.height - side + 1)
        crop = image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        pixels = np.asarray(crop)[:, :: -1 if rng.random() < 0.5 else 1]
        crops.append(pixels.transpose(2, 0, 1))
    return np.stack(crops).astype(np.float32) / 255.0


def pages(count: int, rng: np.random.Generator, size: int = 480) -> Array:
    """Pages (count, 3, size, size) of words in several fonts and sizes, normalised as for ImageNet."""
    from PIL import Image, ImageDraw

    found = []
    for _ in range(count):
        image = Image.new("RGB", (size, size), _colour(rng, light=True))
        draw, top = ImageDraw.Draw(image), int(rng.integers(5, 40))
        while top < size - 40:
            height = int(rng.integers(14, 40))
            draw.text((int(rng.integers(5, 120)), top), _words(rng, 4), fill=_colour(rng), font=_font(rng, height))
            top += height + int(rng.integers(8, 40))
        found.append(np.asarray(image).transpose(2, 0, 1))
    mean, spread = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((np.stack(found) / 255.0 - mean) / spread).astype(np.float32)


def lines(count: int, rng: np.random.Generator, width: int = 320, *, words: bool = True) -> tuple[Array, list[str]]:
    """Lines of text (count, 3, 48, width) with entries from -1 to 1, and what they say.

    Each line is cropped around its letters, brought to the height of 48, and filled with zeros to the right, as the
    package of the reader does.  With `words=False` the letters are random ones, of which no reader can tell I from l.
    """
    from PIL import Image, ImageDraw

    found, texts, prose = [], [], _prose() if words else []
    for _ in range(count):
        font = _font(rng, int(rng.integers(24, 34)))
        text = _phrase(prose, rng, 5) if words else _words(rng, 3)
        while font.getlength(text) > width - 16:
            text = text[: text.rindex(" ")] if " " in text else text[:-1]
        left, top, right, bottom = font.getbbox(text)
        edge = int(rng.integers(3, 7))
        image = Image.new("RGB", (int(right - left) + 2 * edge, int(bottom - top) + 2 * edge), _colour(rng, light=True))
        ImageDraw.Draw(image).text((edge - left, edge - top), text, fill=_colour(rng), font=font)
        image = image.resize((min(width, -(-48 * image.width // image.height)), 48), Image.Resampling.BILINEAR)
        line = np.zeros((3, 48, width), np.float32)
        line[:, :, : image.width] = np.asarray(image).transpose(2, 0, 1) / 127.5 - 1.0
        found.append(line)
        texts.append(text)
    return np.stack(found), texts


def notes(count: int, rng: np.random.Generator) -> Array:
    """Sounds (count, WINDOW, 1) of some plucked notes each, of two seconds."""
    time = np.arange(WINDOW) / RATE
    sounds = []
    for _ in range(count):
        sound = 0.003 * rng.standard_normal(WINDOW)
        for _ in range(rng.integers(2, 9)):
            pitch, start = 440.0 * 2.0 ** (rng.integers(-30, 25) / 12.0), rng.uniform(0.0, 1.8)
            after = np.clip(time - start, 0.0, None)
            envelope = (time > start) * np.exp(-rng.uniform(1.0, 5.0) * after) * np.minimum(after / 0.01, 1.0)
            harmonics = [np.sin(2 * np.pi * pitch * h * after) / h ** rng.uniform(0.8, 2.0) for h in range(1, 6)]
            sound += rng.uniform(0.3, 1.0) * envelope * sum(harmonics)
        sounds.append(sound / np.abs(sound).max())
    return np.stack(sounds).astype(np.float32)[:, :, None]


def _prose() -> list[str]:
    """Words in the order of a text that comes with Python: its own reference."""
    from pydoc_data.topics import topics

    return [word for name in sorted(topics) for word in re.findall(r"(?<!\S)[A-Za-z]+[,.;:]?(?!\S)", topics[name])]


def _phrase(prose: list[str], rng: np.random.Generator, most: int) -> str:
    """One to `most` words that stand one after another."""
    start = int(rng.integers(len(prose) - most))
    return " ".join(prose[start : start + int(rng.integers(1, most + 1))])


def _words(rng: np.random.Generator, most: int) -> str:
    """One to `most` words of random letters."""
    letters = list(_LETTERS)
    return " ".join("".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(rng.integers(1, most + 1)))


def _colour(rng: np.random.Generator, light: bool = False) -> tuple[int, int, int]:
    first, second, third = (int(part) for part in rng.integers(*((170, 256) if light else (0, 100)), 3))
    return first, second, third


def _font(rng: np.random.Generator, height: int) -> Any:
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", str(rng.choice(_FONTS))), height)

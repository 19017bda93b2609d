"""Images and labels from files the user has: Fashion-MNIST, CIFAR-10 and CIFAR-100, a folder per class, or digits.

Formats
-------
IDX (MNIST, Fashion-MNIST): big-endian 32-bit magic 0x0000_08_d with d dimensions, the d sizes, then the bytes.
CIFAR binary: one record per image, the label (CIFAR-100: coarse label, fine label), then 3 x 32 x 32 bytes.
Image folder (ImageNet): train/<class>/*.jpg and val/<class>/*.jpg; read one batch at a time.

The given training set is split once, by a seed of its own, into training and validation images: choices are made
on validation, figures are reported on test.
"""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

SPLIT_SEED = 20240501
"""The split is the same for every network and every seed of training."""


class Images:
    """Images in memory.

    Attributes
    ----------
    pixels : (Z, C, H, W), uint8.
    labels : (Z,), int64.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.pixels, self.labels = pixels, labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The pixels of some images."""
        return self.pixels[indices]


class ImageFiles:
    """Images in files, decoded when they are read: resized on the short side, cut out in the centre."""

    def __init__(self, paths: list[Path], labels: list[int], size: int) -> None:
        self.paths, self.labels, self.size = paths, np.array(labels, dtype=np.int64), size

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The pixels of some images."""
        return np.stack([self._decode(self.paths[index]) for index in indices])

    def _decode(self, path: Path) -> np.ndarray:
        from PIL import Image

        with Image.open(path) as image:
            rgb = image.convert("RGB")
        scale = self.size * 8 / 7 / min(rgb.size)
        rgb = rgb.resize((max(self.size, round(rgb.width * scale)), max(self.size, round(rgb.height * scale))))
        left, top = (rgb.width - self.size) // 2, (rgb.height - self.size) // 2
        crop = rgb.crop((left, top, left + self.size, top + self.size))
        return np.asarray(crop, dtype=np.uint8).transpose(2, 0, 1)


@dataclass(frozen=True)
class Subset:
    """Some images of a source."""

    source: Images | ImageFiles
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> np.ndarray:
        """(Z,) labels."""
        return self.source.labels[self.indices]

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The pixels of some images."""
        return self.source.read(self.indices[indices])


@dataclass(frozen=True)
class Splits:
    """Training, validation and test images, with the mean and deviation of the channels of the first."""

    name: str
    train: Subset
    validation: Subset
    test: Subset
    classes: int
    mean: np.ndarray
    deviation: np.ndarray

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return len(self.mean)

    @property
    def side(self) -> int:
        """Height of an image."""
        return int(self.test.read(np.arange(1)).shape[2])

    def batches(
        self, part: Subset, size: int, rng: np.random.Generator | None = None, crop: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Normalised float32 images (Z, C, H, W) and labels; shuffled, cropped and mirrored at random with `rng`."""
        order = np.arange(len(part)) if rng is None else rng.permutation(len(part))
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            pixels = part.read(chosen)
            if rng is not None:
                pixels = augmented(pixels, crop, rng)
            scaled = pixels.astype(np.float32) / np.float32(255.0)
            yield (scaled - self.mean[:, None, None]) / self.deviation[:, None, None], part.labels[chosen]


def augmented(pixels: np.ndarray, crop: int, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by up to `crop` pixels in both directions, zeros moving in, and mirrored or not."""
    count, _, height, width = pixels.shape
    padded = np.pad(pixels, ((0, 0), (0, 0), (crop, crop), (crop, crop)))
    rows = rng.integers(0, 2 * crop + 1, count)[:, None] + np.arange(height)
    columns = rng.integers(0, 2 * crop + 1, count)[:, None] + np.arange(width)
    mirrored = rng.random(count) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    moved = padded[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(moved.transpose(0, 3, 1, 2))


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Bytes of an IDX file, gzipped or not.

    Raises
    ------
    ValueError when the file is not an IDX file of bytes, or is cut short.
    """
    raw = Path(path).read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or raw[3] not in (1, 2, 3, 4):
        raise ValueError(f"{os.fspath(path)!r} is not an IDX file of unsigned bytes")
    order = raw[3]
    start = 4 + 4 * order
    shape = struct.unpack(f">{order}I", raw[4:start]) if len(raw) >= start else ()
    if not shape or len(raw) - start != int(np.prod(shape, dtype=object)):
        raise ValueError(f"{os.fspath(path)!r} is damaged: {len(raw)} bytes do not fit its header")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def fashion_mnist(path: str | os.PathLike[str] = FASHION_MNIST) -> tuple[Images, Images]:
    """Training and test images of a folder with the four IDX files of MNIST or Fashion-MNIST."""
    folder, parts = Path(path), []
    for part in ("train", "t10k"):
        arrays = [
            read_idx(_one_of(folder, name)) for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        ]
        parts.append(Images(arrays[0][:, None], arrays[1]))
    return parts[0], parts[1]


def cifar(path: str | os.PathLike[str], classes: int = 10) -> tuple[Images, Images]:
    """Training and test images of a folder with the binary version of CIFAR-10 or CIFAR-100."""
    folder = Path(path)
    if classes == 10:
        files = [f"data_batch_{n}.bin" for n in range(1, 6)], ["test_batch.bin"]
    elif classes == 100:
        files = ["train.bin"], ["test.bin"]
    else:
        raise ValueError(f"classes is {classes}; CIFAR has 10 or 100")
    labels = 1 if classes == 10 else 2
    parts = []
    for names in files:
        records = np.concatenate([_records(_one_of(folder, name), labels + 3072) for name in names])
        # CIFAR-100 has the coarse label first, the fine one behind it.
        parts.append(Images(records[:, labels:].reshape(-1, 3, 32, 32), records[:, labels - 1]))
    return parts[0], parts[1]


def image_folder(path: str | os.PathLike[str], size: int = 224) -> tuple[ImageFiles, ImageFiles]:
    """Training and test images of a folder train/<class>/* and val/<class>/*, as ImageNet is usually kept."""
    folder = Path(path)
    names = sorted(entry.name for entry in _one_of(folder, "train").iterdir() if entry.is_dir())
    parts = []
    for part in ("train", "val"):
        paths, labels = [], []
        for label, name in enumerate(names):
            found = sorted(p for p in _one_of(folder / part, name).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            paths += found
            labels += [label] * len(found)
        if not paths:
            raise ValueError(f"{os.fspath(folder / part)!r} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        parts.append(ImageFiles(paths, labels, size))
    return parts[0], parts[1]


def digits() -> tuple[Images, Images]:
    """The 8 x 8 digits that scikit-learn carries; every fifth is a test image."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = (bunch.images * (255.0 / 16.0)).round().astype(np.uint8)[:, None]
    test = np.arange(len(pixels)) % 5 == 4
    return Images(pixels[~test], bunch.target[~test]), Images(pixels[test], bunch.target[test])


IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
DATA: dict[str, Callable[..., tuple[Any, Any]]] = {
    "fashion-mnist": fashion_mnist,
    "cifar10": lambda path: cifar(path, 10),
    "cifar100": lambda path: cifar(path, 100),
    "imagenet": image_folder,
    "digits": lambda path=None: digits(),
}


def load(name: str, path: str | os.PathLike[str] | None = None, *, validation: float = 1 / 12) -> Splits:
    """A data set by name, its training images split into training and validation.

    Parameters
    ----------
    name : one of `DATA`.
    path : folder of its files; Fashion-MNIST has a default.
    validation : share of the training images held back for choices.
    """
    if name not in DATA:
        raise ValueError(f"data set {name!r} is unknown; known are {', '.join(DATA)}")
    if path is None and name not in ("fashion-mnist", "digits"):
        raise ValueError(f"{name} needs path=, the folder of its files")
    given, test = DATA[name]() if path is None else DATA[name](path)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(given))
    held = max(1, round(validation * len(given)))
    train = Subset(given, np.sort(order[held:]))
    mean, deviation = _channel_statistics(train)
    classes = int(given.labels.max()) + 1
    everything = Subset(test, np.arange(len(test)))
    return Splits(name, train, Subset(given, np.sort(order[:held])), everything, classes, mean, deviation)


def _channel_statistics(part: Subset, most: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, in [0, 1], over evenly spaced images."""
    pixels = part.read(np.linspace(0, len(part) - 1, min(most, len(part))).astype(int)) / 255.0
    deviation = pixels.std(axis=(0, 2, 3))
    return pixels.mean(axis=(0, 2, 3)).astype(np.float32), np.maximum(deviation, 1e-3).astype(np.float32)


def _records(path: Path, width: int) -> np.ndarray:
    raw = np.fromfile(path, np.uint8)
    if not len(raw) or len(raw) % width:
        raise ValueError(f"{os.fspath(path)!r} has {len(raw)} bytes; CIFAR records of {width} bytes are needed")
    return raw.reshape(-1, width)


def _one_of(folder: Path, name: str) -> Path:
    """`name` or `name`.gz in a folder."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"{os.fspath(folder)!r} has no {name}; give the folder that holds the data set's files")

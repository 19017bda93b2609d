"""A device that counts what leaves it and what comes to it: array-api-strict's second device, watched.

An array there refuses to become a NumPy array unless it is moved to the first device; every move, and every number that
Python asks for (`float`, `bool`, `int`, an index), is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import array_api_strict
import numpy as np
import pytest

PLACE = array_api_strict.Device("device1")
_KIND = type(array_api_strict.asarray(0.0))


@dataclass
class Counts:
    """arrays, numbers : that came to the host; sent : arrays that went to the device."""

    arrays: int = 0
    numbers: int = 0
    sent: int = 0

    def reset(self) -> None:
        self.arrays = self.numbers = self.sent = 0


def there(array: Any) -> Any:
    """A NumPy array on the device."""
    return array_api_strict.asarray(np.array(array), device=PLACE)


@contextmanager
def counted() -> Iterator[Counts]:
    """Counts of all that travels."""
    counts = Counts()
    patch = pytest.MonkeyPatch()

    def moved(array: Any, place: Any, **options: Any) -> Any:
        result = to_device(array, place, **options)
        if array.device == PLACE and result.device != PLACE:
            counts.arrays += 1
            counts.numbers += array.size
        return result

    def asked(name: str) -> Any:
        plain = getattr(_KIND, name)

        def number(array: Any) -> Any:
            if array.device == PLACE:
                counts.arrays += 1
                counts.numbers += 1
            return plain(array)

        return number

    def made(given: Any, *arguments: Any, **options: Any) -> Any:
        result = asarray(given, *arguments, **options)
        if result.device == PLACE and not isinstance(given, _KIND):
            counts.sent += 1
        return result

    to_device, asarray = _KIND.to_device, array_api_strict.asarray
    patch.setattr(_KIND, "to_device", moved)
    patch.setattr(array_api_strict, "asarray", made)
    for name in ("__float__", "__bool__", "__int__", "__complex__", "__index__"):
        patch.setattr(_KIND, name, asked(name))
    try:
        yield counts
    finally:
        patch.undo()

"""What `dir`, completion and `help` show of classes that users call and implementers extend.

Such a class is both: a few names for users, and the hooks of a protocol.  `Listing` is a base class that leaves the
hooks out of `dir(x)` and of `dir(type(x))`, from which `help` is made; they stay reachable by name.
"""

from __future__ import annotations

from typing import ClassVar


class ListingType(type):
    """The type of the classes: `dir` of a class asks its type."""

    _hooks: frozenset[str] = frozenset()

    def __dir__(cls) -> list[str]:
        return [name for name in super().__dir__() if name not in cls._hooks]


class Listing(metaclass=ListingType):
    """A base class; `_hooks` are the names that its subclasses do not list."""

    _hooks: ClassVar[frozenset[str]] = frozenset()

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in self._hooks]


def public_names(*kinds: type) -> frozenset[str]:
    """The public names that the bodies of these classes define.

    Parameters
    ----------
    *kinds : type
        Classes; their bases are not searched.

    Returns
    -------
    frozenset of str
        The names.
    """
    return frozenset(name for kind in kinds for name in vars(kind) if not name.startswith("_"))

"""The wiring of a model, in letters: which block shares which bond with which.

A model is a sum of *terms*; each term is a tensor network in which block k has at
most one physical index (a mode of the tensor) and any number of bonds.  For the
chain of order 3 the wiring is ``("ab", "bc", "ca")`` over the modes 0, 1, 2; for CP
it is ``("r", "r", "r")``; for Tucker ``("abc", "a", "b", "c")`` where the core carries
no mode.  A letter shared by exactly two blocks is a *bond* (its gauge group is GL(R));
a letter shared by three or more is a *hyperedge* (only diagonal gauges).

Everything a solver needs (values, Grams, Jacobian products, sensitivities) follows
from the wiring by contraction, so a new model need not write any of it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
_CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюяѐёђѓєѕіїјљњћќѝўџ"
MODE_LETTERS = "abcdefghij" + _GREEK + _GREEK.upper()[:16]
"""The first ten are letters of NumPy's einsum, and enough for most tensors; fifty in all."""
BOND_LETTERS = "klmnopqrstuvwxy" + _CYRILLIC
"""Their capitals stand for the bonds of the conjugated model, so that each needs one of its own."""
CORE_LETTERS = "CDEFGHIJ"
BATCH = "Z"
ROW = "A"
COLUMN = "B"


@dataclass(frozen=True)
class Term:
    """One network: per block the letters of its bonds, and the size of each letter."""

    bonds: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...]

    def __reduce__(self) -> Any:
        return Term, (self.bonds, self.sizes)

    @cached_property
    def size_of(self) -> dict[str, int]:
        return dict(self.sizes)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Per block the sizes of its bonds, in the order of its letters."""
        return tuple(tuple(self.size_of[letter] for letter in bonds) for bonds in self.bonds)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Per block P_k of this term: its number of entries for one physical index."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def gauge_bonds(self) -> tuple[tuple[str, int, int], ...]:
        """Letters shared by exactly two blocks: (letter, block, block)."""
        pairs = [(letter, owners) for letter, owners in self._owners.items() if len(owners) == 2]
        return tuple((letter, owners[0], owners[1]) for letter, owners in pairs)

    @cached_property
    def hyperedges(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Letters shared by three or more blocks."""
        return tuple((letter, owners) for letter, owners in self._owners.items() if len(owners) > 2)

    @cached_property
    def _owners(self) -> dict[str, tuple[int, ...]]:
        return {letter: tuple(k for k, bonds in enumerate(self.bonds) if letter in bonds) for letter, _ in self.sizes}


@dataclass(frozen=True)
class Network:
    """Terms over common modes.

    Attributes
    ----------
    terms : tuple of Term
        The networks that are summed.
    modes : tuple of int or None
        Per block the mode of the tensor that it carries, or None (a core).
    """

    terms: tuple[Term, ...]
    modes: tuple[int | None, ...]

    def __post_init__(self) -> None:
        carried = [mode for mode in self.modes if mode is not None]
        if sorted(carried) != list(range(len(carried))):
            raise ValueError(f"each mode of the tensor must be carried by exactly one block; blocks carry {self.modes}")
        if len(carried) > len(MODE_LETTERS):
            raise ValueError(f"order {len(carried)} was given; at most {len(MODE_LETTERS)} modes are supported")
        if len(self.modes) - len(carried) > len(CORE_LETTERS):
            cores = len(self.modes) - len(carried)
            raise ValueError(f"{cores} cores were given; at most {len(CORE_LETTERS)} are supported")
        if not self.terms:
            raise ValueError("no term was given; a model is a sum of one or more")
        for term in self.terms:
            self._check_letters(term)
            counts = Counter(letter for bonds in term.bonds for letter in set(bonds))
            lonely = [letter for letter, count in counts.items() if count < 2]
            if lonely:
                raise ValueError(f"bond {lonely[0]!r} of {term.bonds} touches only one block; it must join two or more")
            repeated = [bonds for bonds in term.bonds if len(set(bonds)) < len(bonds)]
            if repeated:
                raise ValueError(f"block letters {repeated[0]!r} repeat a bond; a block cannot be joined to itself")

    def __reduce__(self) -> Any:
        return Network, (self.terms, self.modes)

    def _check_letters(self, term: Term) -> None:
        if len(term.bonds) != len(self.modes):
            raise ValueError(
                f"term {term.bonds} has {len(term.bonds)} blocks and `modes` {len(self.modes)}; give one entry each"
            )
        sizes = dict(term.sizes)
        for letter in dict.fromkeys("".join(term.bonds)):
            if letter not in BOND_LETTERS:
                raise ValueError(f"bond {letter!r} is no bond letter; use letters of {BOND_LETTERS!r}")
            if sizes.get(letter, 0) < 1:
                raise ValueError(f"bond {letter!r} has size {sizes.get(letter)}; a size of at least 1 is needed")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Plans are cached by network, and looked up in every step of a solver.
        return hash((self.terms, self.modes))

    @classmethod
    def single(cls, bonds: tuple[str, ...], sizes: dict[str, int], modes: tuple[int | None, ...]) -> Network:
        """A model of one term."""
        return cls((Term(bonds, tuple(sizes.items())),), modes)

    @cached_property
    def order(self) -> int:
        return sum(mode is not None for mode in self.modes)

    @cached_property
    def has_cores(self) -> bool:
        """Whether some block carries no mode."""
        return None in self.modes

    @cached_property
    def block_of_mode(self) -> tuple[int, ...]:
        return tuple(self.modes.index(mode) for mode in range(self.order))

    @cached_property
    def update_order(self) -> tuple[int, ...]:
        """Blocks in the order of their modes, cores last: each asks a data source for what the one before it needed."""
        return (*self.block_of_mode, *(k for k, mode in enumerate(self.modes) if mode is None))

    @cached_property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """labels[t][k]: letters of block k of term t as an array (I_k, *bonds), physical letter first."""
        return tuple(tuple(p + b for p, b in zip(self.physical, term.bonds, strict=True)) for term in self.terms)

    @cached_property
    def evaluations(self) -> tuple[str, ...]:
        """Per term the subscripts of X."""
        return tuple(",".join(labels) + "->" + self.output for labels in self.labels)

    @cached_property
    def identities(self) -> tuple[NDArray[np.float64], ...]:
        """Per block the identity (P_k, P_k)."""
        return tuple(np.eye(width) for width in self.widths)

    @cached_property
    def output(self) -> str:
        return MODE_LETTERS[: self.order]

    @cached_property
    def physical(self) -> tuple[str, ...]:
        """Per block the letter of its physical index; cores get a letter of size one."""
        spare = iter(CORE_LETTERS)
        return tuple(next(spare) if mode is None else MODE_LETTERS[mode] for mode in self.modes)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """P_k: columns of the matrix form of block k, over all terms."""
        return tuple(sum(term.widths[k] for term in self.terms) for k in range(len(self.modes)))

    @cached_property
    def columns(self) -> tuple[tuple[slice, ...], ...]:
        """columns[t][k]: the columns of the matrix form of block k that belong to term t."""
        starts = [0] * len(self.modes)
        table = []
        for term in self.terms:
            row = []
            for k in range(len(self.modes)):
                width = term.widths[k]
                row.append(slice(starts[k], starts[k] + width))
                starts[k] += width
            table.append(tuple(row))
        return tuple(table)

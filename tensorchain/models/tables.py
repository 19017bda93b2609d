"""Models as tables: their components, and their blocks for pandas and xarray.

A *component* is a part that a model is the sum of: a rank-one term of a CP, a Tucker term of a block-term model; other
models are one component.  A block becomes a table with one row for each entry of its mode and one column for each
combination of its bonds.  Modes have the names and coordinates of the data where these are given; bonds are called
"component" where they join all blocks, else "bond 1", "bond 2", ..., and count from 1, as blocks do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models.arrays import ArrayLike
from tensorchain.models.dimensions import dimensions_of
from tensorchain.models.network import Network

if TYPE_CHECKING:
    import pandas as pd
    import xarray

_COLUMNS = ("norm", "share", "closest", "cosine")


class Components(Sequence["ArrayLike"]):
    """The parts that a model is the sum of, as a sequence of models and as a table.

    Attributes
    ----------
    norm : ndarray
        (R,), ||X_r||.
    share : ndarray
        (R,), ||X_r||^2 / ||X||^2; above 1 where components cancel.
    closest : ndarray
        (R,), for each component the other one whose cosine with it is largest in magnitude; -1 where it is alone.
    cosine : ndarray
        (R,), that cosine, of the tensors; its real part for complex models.  Near -1 two components cancel.
    """

    def __init__(self, model: ArrayLike, parts: Sequence[ArrayLike]) -> None:
        self._parts = tuple(parts)
        count = len(self._parts)
        norms = np.array([part.norm() for part in self._parts])
        total = model.norm()
        units = [
            part.scaled(1.0 / size) if 0.0 < size < math.inf else part for part, size in zip(parts, norms, strict=True)
        ]
        cosines = np.zeros((count, count), dtype=np.result_type(model.dtype, np.float64))
        for r, one in enumerate(units):
            for s in range(r):
                cosines[r, s] = one.inner(units[s])
                cosines[s, r] = np.conj(cosines[r, s])
        self.norm: Array = norms
        self.share: Array = (norms / total) ** 2 if total > 0.0 else np.zeros(count)
        sizes = np.abs(cosines)
        np.fill_diagonal(sizes, -1.0)
        self.closest: Array = np.argmax(sizes, axis=1) if count > 1 else np.full(count, -1)
        self.cosine: Array = cosines[np.arange(count), self.closest].real if count > 1 else np.zeros(count)

    @overload
    def __getitem__(self, key: int) -> ArrayLike: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[ArrayLike, ...]: ...
    def __getitem__(self, key: int | slice) -> ArrayLike | tuple[ArrayLike, ...]:
        return self._parts[key]

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        lines = [("", *_COLUMNS), *self._rows()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in ("component", *_COLUMNS))
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self._rows())
        return f"<table><tr>{head}</tr>{body}</table>"

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for r in range(len(self)):
            closest = str(self.closest[r] + 1) if self.closest[r] >= 0 else "-"
            # Components that cancel can be millions of times the tensor.
            share = f"{self.share[r]:.1%}" if self.share[r] < 1e3 else f"{100.0 * self.share[r]:.2g}%"
            yield str(r + 1), f"{self.norm[r]:.4g}", share, closest, f"{self.cosine[r]:.3f}"

    def to_pandas(self) -> pd.DataFrame:
        """The table, one row for each component, from 1.

        Returns
        -------
        pd.DataFrame
            pandas.DataFrame.

        Raises
        ------
        ImportError
            Without pandas.
        """
        pandas = _pandas()
        index = pandas.RangeIndex(1, len(self) + 1, name="component")
        table = {"norm": self.norm, "share": self.share, "closest": self.closest + 1, "cosine": self.cosine}
        return pandas.DataFrame(table, index=index)


class Tabular(ArrayLike):
    """What models show of themselves as tables."""

    @property
    def components(self) -> Components:
        """The parts that this model is the sum of: rank-one terms of a CP, terms of a block-term model.

        Returns
        -------
        Components
            A sequence of models, which prints as a table of norms, shares of ||X||^2 and closest components.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> cp = tc.CP([np.array([[3.0, 0.0], [0.0, 1.0]])] * 3)
        >>> cp.components
           norm  share  closest  cosine
        1    27  99.9%        2   0.000
        2     1   0.1%        1   0.000
        >>> sum(cp.components) == cp
        True
        """
        return Components(self, self._parts())

    def _parts(self) -> list[ArrayLike]:
        network = self.network
        if len(network.terms) == 1:
            return [self]
        return [
            type(self).from_matrices(
                Network((term,), network.modes),
                [matrix[:, piece] for matrix, piece in zip(self.matrices, columns, strict=True)],
            )
            for term, columns in zip(network.terms, network.columns, strict=True)
        ]

    def to_pandas(self, dims: Any = None) -> dict[str, pd.DataFrame]:
        """The blocks as tables.

        Parameters
        ----------
        dims : optional
            What the modes are called: names, a mapping of names to coordinates (or None), or an `xarray.DataArray`.

        Returns
        -------
        dict of pandas.DataFrame
            By name of the mode where `dims` gives names, else by name of the block.  Rows are the coordinates of the
            mode, columns the bonds of its block.  A block without a mode has its own name and one column, its rows are
            its bonds.

        Raises
        ------
        ImportError
            Without pandas.
        TypeError
            When `dims` is of another kind.
        ValueError
            When `dims` does not fit the modes, or a mode is called as a block without one.

        Examples
        --------
        >>> import tensorchain as tc
        >>> tables = tc.CP.random((2, 3), 2, rng=0).to_pandas({"sample": ["a", "b"], "time": [0.0, 0.5, 1.0]})
        >>> tables["time"].index.tolist(), tables["time"].columns.tolist()
        ([0.0, 0.5, 1.0], [1, 2])
        """
        pandas = _pandas()
        dimensions = dimensions_of(self.shape, dims)
        tables = {}
        for k, (name, mode) in enumerate(zip(self.block_names, self.network.modes, strict=True)):
            columns = _bond_index(pandas, self.network, k)
            if mode is None:
                if dims is not None and any(name == dimension.name for dimension in dimensions):
                    raise ValueError(f"a mode is called {name!r}, as a block of the model; rename it in dims")
                tables[name] = pandas.DataFrame({name: self.matrices[k][0]}, index=columns)
                continue
            dimension = dimensions[mode]
            rows = np.arange(self.shape[mode]) if dimension.coordinates is None else dimension.coordinates
            index = pandas.Index(rows, name=dimension.name)
            tables[name if dims is None else dimension.name] = pandas.DataFrame(
                np.array(self.matrices[k]), index=index, columns=columns
            )
        return tables

    def to_xarray(self, dims: Any = None, *, full: bool = False) -> xarray.Dataset:
        """The blocks as arrays with named dimensions, which `xarray.dot` contracts to the tensor.

        Parameters
        ----------
        dims : optional
            What the modes are called: names, a mapping of names to coordinates (or None), or an `xarray.DataArray`.
        full : bool
            Whether to add the tensor itself, as the variable "tensor".

        Returns
        -------
        xarray.Dataset
            One variable for each block, of each term where there are several.  Its dimensions are the mode and the
            bonds of the block.

        Raises
        ------
        ImportError
            Without xarray.
        TypeError
            When `dims` is of another kind.
        ValueError
            When `dims` does not fit the modes, or a mode is called as a bond or a block.

        Examples
        --------
        >>> import tensorchain as tc
        >>> data = tc.CP.random((2, 3), 2, rng=0).to_xarray(["sample", "time"])
        >>> sorted(data.sizes.items()), sorted(data.data_vars)
        ([('component', 2), ('sample', 2), ('time', 3)], ['factor 1', 'factor 2'])
        """
        library = _imported("xarray", "tables")
        dimensions = dimensions_of(self.shape, dims)
        several = len(self.network.terms) > 1
        variables: dict[str, Any] = {}
        bonds_of_all: set[str] = set()
        coords: dict[str, Any] = {d.name: d.coordinates for d in dimensions if d.coordinates is not None}
        for t, term in enumerate(self.network.terms):
            suffix = f", term {t + 1}" if several else ""
            names = {letter: name + suffix for letter, name in _bond_names(self.network, t).items()}
            bonds_of_all.update(names.values())
            coords.update({names[letter]: np.arange(1, size + 1) for letter, size in term.sizes})
            for k, (name, mode) in enumerate(zip(self.block_names, self.network.modes, strict=True)):
                bonds, operand = [names[letter] for letter in term.bonds[k]], self.operands(t)[k]
                if mode is None:
                    variables[name + suffix] = (bonds, np.array(operand[0]))
                else:
                    variables[name + suffix] = ([dimensions[mode].name, *bonds], np.array(operand))
        taken = {*variables, *bonds_of_all, "tensor"}
        clash = [dimension.name for dimension in dimensions if dimension.name in taken]
        if clash:
            raise ValueError(f"a mode is called {clash[0]!r}, as a bond or a block of the model; rename it in dims")
        if full:
            variables["tensor"] = ([d.name for d in dimensions], self.full())
        attributes = {"model": type(self).__name__, "rank": str(self.rank)}
        data: xarray.Dataset = library.Dataset(variables, coords=coords, attrs=attributes)
        return data


def _bond_names(network: Network, t: int) -> dict[str, str]:
    """What the bonds of a term are called."""
    term = network.terms[t]
    shared = [letter for letter, owners in term.hyperedges if len(owners) == len(term.bonds)]
    if all(bonds == term.bonds[0] and len(bonds) == 1 for bonds in term.bonds):
        # Of order 2 as well, where the only bond is shared by two blocks.
        shared = list(term.bonds[0])
    others = [letter for letter, _ in term.sizes if letter not in shared]
    names = {letter: "component" if len(shared) == 1 else f"component {n + 1}" for n, letter in enumerate(shared)}
    return {**names, **{letter: f"bond {n + 1}" for n, letter in enumerate(others)}}


def _bond_index(pandas: Any, network: Network, k: int) -> Any:
    """The columns of block k: its bonds, and the term where there are several."""
    levels: list[tuple[Any, ...]] = []
    names: list[str] = []
    several = len(network.terms) > 1
    for t, term in enumerate(network.terms):
        called = _bond_names(network, t)
        names = [called[letter] for letter in term.bonds[k]]
        first = [t + 1] if several else []
        levels += [(*first, *(index + 1 for index in place)) for place in np.ndindex(*term.shapes[k])]
    names = [*(["term"] if several else []), *names]
    if not names:
        return pandas.RangeIndex(1, 2, name="component")
    if len(names) == 1:
        return pandas.Index([level[0] for level in levels], name=names[0])
    return pandas.MultiIndex.from_tuples(levels, names=names)


def column_names(network: Network, k: int) -> list[str]:
    """A name for each column of block k in matrix form: "component 2", or "bond 1 = 2, bond 3 = 1".

    Examples
    --------
    >>> import tensorchain as tc
    >>> from tensorchain.models.tables import column_names
    >>> column_names(tc.Tucker.random((3, 4), 2, rng=0).network, 1)
    ['bond 1 = 1', 'bond 1 = 2']
    """
    names = []
    for t, term in enumerate(network.terms):
        called = _bond_names(network, t)
        first = [f"term {t + 1}"] if len(network.terms) > 1 else []
        for place in np.ndindex(*term.shapes[k]):
            parts = [
                f"component {index + 1}" if called[letter] == "component" else f"{called[letter]} = {index + 1}"
                for letter, index in zip(term.bonds[k], place, strict=True)
            ]
            names.append(", ".join([*first, *parts]))
    return names


def _pandas() -> Any:
    return _imported("pandas", "tables")


def _imported(package: str, extra: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"this table needs the package {package}: pip install tensorchain[{extra}]") from error

"""Sweeps over blocks that lie on a device: no number leaves it.

The update of block k is that of :mod:`tensorchain.solvers.sweeps`, written as a correction,

    D = (W - B S^T) S^{-T},     W = L_k^H vec(T),     S = M_k + nu Q_k,

with nu = 0 without a penalty.  S is made definite by a ridge of the size of its rounding; the step then is one of a
proximal method, which lowers the objective whatever S is, so that nobody has to ask whether S was singular.

**Tucker.**  Without a penalty a factor and the core take their joint best.  With orthonormal other factors and
Y = T x_{m != k} U_m^H, unfolded, the factor is to span the leading left singular vectors of Y (HOOI).  Where neither
side of Y is small these take an eigendecomposition, which devices do slowly; there subspace iteration goes on from the
factor as it is,

    Z = orth(Y^H U),      U <- orth(Y Z),

each step of which raises ||U^H Y||, the norm of the best core: the limits are the same.

**Its error.**  After the last update of a sweep, with W and M at hand,

    ||T - X||^2 = ||T||^2 - <B, 2 W - B M^T>,

and the sum of the sizes of the terms on the right tells how many digits it has.

References: Kolda and Bader, "Tensor decompositions and applications" (2009), sections 3.4 and 4.2; Golub and Van Loan,
"Matrix Computations" (2013), section 8.2, for subspace iteration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tensorchain.evaluation.device_blocks import DeviceBlocks
from tensorchain.evaluation.device_gauge import gauge_cycle
from tensorchain.evaluation.device_partials import Absorbed, DevicePartials
from tensorchain.kernels.namespace import Namespace
from tensorchain.models.network import Network

FORMED = 2048
"""Columns of a block up to which its Gram is formed (32 MB in double precision)."""
_STEPS = 2
"""Steps of subspace iteration in an update."""
_SMALL = 64
"""Side of Y up to which eigenvectors of its Gram are where the iteration begins, and one step ends it."""


class Square(NamedTuple):
    """What ||T - X||^2 = ||T||^2 - 2 Re <B, W> + <B, B M^T> is made of after a sweep, as scalars on the device."""

    cross: Any
    """Re <B, W>."""
    image: Any
    """<B, B M^T>."""
    length: Any
    """||B||^2."""
    block: int
    """Which one B is."""


class DeviceSweeps:
    """Sweeps over one array.

    Parameters
    ----------
    partials : DevicePartials
        Products with the array.
    blocks : DeviceBlocks
        They are replaced.
    absorbing : sequence of Network or None or None
        For each block the network of the model whose core has taken it in, and None for the core; None altogether for
        models without such a core.
    """

    def __init__(
        self, partials: DevicePartials, blocks: DeviceBlocks, absorbing: Sequence[Network | None] | None
    ) -> None:
        self.partials, self.blocks, self.absorbing = partials, blocks, absorbing
        self._names = blocks.namespace
        self._sizes: list[float] | None = None

    @staticmethod
    def fit(network: Network, absorbing: Sequence[Network | None] | None, penalty: float) -> bool:
        """Whether the small systems of a wiring can be formed."""
        if absorbing is None:
            return max(network.widths) <= FORMED
        factors = [width for width, mode in zip(network.widths, network.modes, strict=True) if mode is not None]
        ranks = network.terms[0].shapes[0]
        # Subspace iteration needs as many rows in the other modes as columns here.
        return penalty > 0.0 or all(rank * rank <= math.prod(ranks) for rank in factors)

    def begun(self, scale: float) -> Square:
        """||T - X||^2 of the blocks as they are, from the product that the first update needs."""
        k = self.blocks.network.block_of_mode[0]
        return self._square(k, self._rhs(k, scale))

    def sweep(self, scale: float, penalty: float) -> Square:
        """Update every block once; the data are `scale` times the array."""
        network = self.blocks.network
        if self.absorbing is not None and not penalty:
            return self._joint_sweep(scale)
        self._sizes = None
        cores = network.update_order[network.order :]
        last, rhs = cores[-1] if cores else network.block_of_mode[-1], None
        for factor in network.block_of_mode:
            for k in (factor, *cores):
                rhs = self._rhs(k, scale)
                self._update(k, rhs, penalty)
        square = self._square(last, rhs)
        if penalty:
            gauge_cycle(self.blocks)
        return square

    def moved(self) -> None:
        """A block was replaced by someone else."""
        self._sizes = None

    @property
    def unsized(self) -> bool:
        """Whether it is not said yet which size the columns of orthonormal factors are to have."""
        return self._sizes is None

    # -- inside -------------------------------------------------------------------------

    def _rhs(self, k: int, scale: float) -> Any:
        """W, (I_k, P_k)."""
        product = self.partials.all_but(self.blocks, k, self.blocks.dtype)
        return product if scale == 1.0 else product * scale

    def _update(self, k: int, rhs: Any, penalty: float) -> None:
        names, blocks = self._names, self.blocks
        if self.absorbing is not None and blocks.network.modes[k] is None:
            blocks.put(k, self._penalised_core(k, rhs, penalty))
            return
        matrix, system = blocks.matrices[k], blocks.gram(k)
        if penalty:
            system = system + penalty * blocks.metric(k)
        residual = names.less(rhs, matrix, names.transpose(system))
        blocks.put(k, matrix + names.solved(system, residual))

    def _penalised_core(self, k: int, rhs: Any, penalty: float) -> Any:
        """The core at its best: M_0 + nu Q_0 is diagonal in the eigenvectors of the moments of the factors."""
        names, blocks = self._names, self.blocks
        xp, term = names.xp, blocks.network.terms[0]
        shape, letters = term.shapes[k], term.bonds[k]
        owner = {bonds: m for m, bonds in enumerate(term.bonds) if m != k}
        pairs = [names.eigh(blocks.moment(owner[letter])) for letter in letters]
        vectors = [pair[1] for pair in pairs]
        values = []
        for n, pair in enumerate(pairs):
            positive = xp.where(pair[0] > 0.0, pair[0], xp.zeros_like(pair[0]))
            values.append(names.reshape(positive, tuple(-1 if m == n else 1 for m in range(len(shape)))))
        weights = math.prod(values[1:], start=values[0])
        for n, letter in enumerate(letters):
            others = [value for m, value in enumerate(values) if m != n]
            rows = float(blocks.row_counts[owner[letter]])
            weights = weights + (penalty * rows) * math.prod(others[1:], start=others[0])
        matrix, right = (
            self._along(names.reshape(array, shape), letters, [names.adjoint(v) for v in vectors])
            for array in (blocks.matrices[k], rhs)
        )
        change = (right - weights * matrix) / (weights + xp.max(weights) * _least(names, blocks))
        return names.reshape(self._along(matrix + change, letters, vectors), (1, -1))

    def _along(self, value: Any, letters: str, matrices: Sequence[Any]) -> Any:
        """Each matrix multiplied into its mode."""
        for letter, matrix in zip(letters, matrices, strict=True):
            value = self._names.contract(f"Z{letter},{letters}->{letters.replace(letter, 'Z')}", matrix, value)
        return value

    def _square(self, k: int, rhs: Any) -> Square:
        """||T - X||^2 by the short formula, from W of a block."""
        names, blocks = self._names, self.blocks
        matrix, is_core = blocks.matrices[k], blocks.network.modes[k] is None
        if not is_core:
            # <B, B M^T> = sum of C * M
            length, image = names.trace(blocks.moment(k)), names.total(blocks.moment(k) * blocks.gram(k))
        else:
            length = names.squared(matrix)
            product = (
                names.matmul(matrix, names.transpose(blocks.gram(k))) if self.absorbing is None else self._core_image(k)
            )
            image = names.dot(matrix, product)
        return Square(names.dot(matrix, rhs), image, length, k)

    def _core_image(self, k: int) -> Any:
        """B M_0^T, by mode products."""
        term = self.blocks.network.terms[0]
        owner = {bonds: m for m, bonds in enumerate(term.bonds) if m != k}
        value = self._names.reshape(self.blocks.matrices[k], term.shapes[k])
        value = self._along(value, term.bonds[k], [self.blocks.moment(owner[letter]) for letter in term.bonds[k]])
        return self._names.reshape(value, (1, -1))

    # -- a factor and the core together ---------------------------------------------------

    def orthonormalise(self, sizes: Sequence[float]) -> None:
        """Factors with orthonormal columns, times the sizes that are given for each block; X is unchanged."""
        names, blocks = self._names, self.blocks
        network = blocks.network
        core = network.modes.index(None)
        term = network.terms[0]
        value = names.reshape(blocks.matrices[core], term.shapes[core])
        for k, mode in enumerate(network.modes):
            if mode is None:
                continue
            basis, rest = names.qr(blocks.matrices[k])
            letter = term.bonds[k]
            subscripts = f"Z{letter},{term.bonds[core]}->{term.bonds[core].replace(letter, 'Z')}"
            value = names.contract(subscripts, rest / sizes[k], value)
            blocks.put(k, basis * sizes[k])
        blocks.put(core, names.reshape(value, (1, -1)))
        self._sizes = list(sizes)

    def _joint_sweep(self, scale: float) -> Square:
        assert self.absorbing is not None
        names, blocks = self._names, self.blocks
        network = blocks.network
        if self._sizes is None:
            self.orthonormalise([1.0] * len(network.modes))
        assert self._sizes is not None
        core = network.modes.index(None)
        explained: Any = None
        whole = math.prod(self._sizes[k] for k, mode in enumerate(network.modes) if mode is not None)
        for k in network.block_of_mode:
            absorbed = self.absorbing[k]
            assert absorbed is not None
            product = self.partials.all_but(Absorbed(blocks, absorbed, k), 0, blocks.dtype)
            product = product * (scale * self._sizes[k] / whole)
            basis = self._leading(product, blocks.matrices[k] / self._sizes[k])
            small = names.matmul(names.adjoint(basis), product)
            explained = names.squared(small)
            blocks.put(k, basis * self._sizes[k])
            place = network.terms[0].bonds[core].index(network.terms[0].bonds[k])
            shape = network.terms[0].shapes[core]
            opened = names.reshape(small / whole, (shape[place], *shape[:place], *shape[place + 1 :]))
            order = (*range(1, place + 1), 0, *range(place + 1, len(shape)))
            blocks.put(core, names.reshape(names.permute(opened, order), (1, -1)))
        # X is the projection of T: nothing cancels in ||X||.
        return Square(explained, explained, 0.0 * explained, core)

    def _leading(self, matrix: Any, basis: Any) -> Any:
        """Orthonormal columns towards the leading left singular vectors of a matrix (I, P), from those of `basis`."""
        names = self._names
        (rows, columns), count, steps = map(int, matrix.shape), int(basis.shape[1]), _STEPS
        if min(rows, columns) <= _SMALL:
            steps = 1
            small = rows <= columns
            gram = names.matmul(matrix, names.adjoint(matrix)) if small else names.matmul(names.adjoint(matrix), matrix)
            vectors = names.eigh(gram)[1][:, gram.shape[0] - count :]
            basis = vectors if small else names.orthonormal(names.matmul(matrix, vectors))
        for _ in range(steps):
            right = names.orthonormal(names.matmul(names.adjoint(matrix), basis))
            basis = names.orthonormal(names.matmul(matrix, right))
        return basis


def _least(names: Namespace, blocks: DeviceBlocks) -> float:
    return 100.0 * names.eps(blocks.dtype)

"""Models as expressions of other programs: einsum (NumPy, opt_einsum, torch) and quimb.

A term of a model is one contraction of its blocks.  `to_einsum` writes it in Einstein notation, for a chain of order 3
"akl,blm,cmk->abc": letters in front of the arrow that also stand behind it are modes, all others bonds.  Operands have
the mode first and the bonds behind it in the order of the wiring; a core has its bonds alone.  Whoever contracts them
may choose the order, the hardware and the precision, add further operands, or differentiate.
"""

from __future__ import annotations

import string
from importlib import import_module
from typing import Any, NamedTuple

from tensorchain.kernels import Array
from tensorchain.labels import Subject, labels_of


class Einsum(NamedTuple):
    """One term of a model in Einstein notation.

    Attributes
    ----------
    equation : str
        As `numpy.einsum` and `opt_einsum.contract` take it.
    operands : tuple of ndarray
        The blocks, read-only; (I_k, *bonds), or (*bonds) for a core.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> model = tc.CP.random((3, 4), 2, rng=0)
    >>> terms = tc.interop.to_einsum(model)
    >>> np.allclose(sum(np.einsum(term.equation, *term.operands) for term in terms), model.full())
    True
    """

    equation: str
    operands: tuple[Array, ...]


def to_einsum(model: Subject) -> tuple[Einsum, ...]:
    """The contractions whose sum is the tensor: one for each term of the model.

    Parameters
    ----------
    model : Fit or Model
        Any model, or a fit.

    Returns
    -------
    tuple of Einsum
        Tuple of Einsum; only a model with several terms (`BlockTerm`) has more than one.

    Raises
    ------
    TypeError
        When it is no model.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.interop import to_einsum
    >>> chain = tc.TensorChain.random((4, 5, 6), (2, 3, 2), rng=0)
    >>> (term,) = to_einsum(chain)
    >>> term.equation
    'akl,blm,cmk->abc'
    >>> np.allclose(np.einsum(term.equation, *term.operands, optimize=True), chain.full())
    True
    """
    model = labels_of(model).model
    network = model.network
    expressions = []
    for t, term in enumerate(network.terms):
        inputs = [
            bonds if mode is None else letter + bonds
            for letter, bonds, mode in zip(network.physical, term.bonds, network.modes, strict=True)
        ]
        operands = [
            operand[0] if mode is None else operand
            for operand, mode in zip(model.operands(t), network.modes, strict=True)
        ]
        expressions.append(Einsum(_in_one_alphabet(f"{','.join(inputs)}->{network.output}"), tuple(operands)))
    return tuple(expressions)


def _in_one_alphabet(equation: str) -> str:
    """The equation in the letters that NumPy takes, where these are enough; of more, opt_einsum takes any."""
    letters = [letter for letter in dict.fromkeys(equation) if letter not in ",->"]
    if all(letter in string.ascii_letters for letter in letters) or len(letters) > len(string.ascii_letters):
        return equation
    renamed = {ord(old): new for old, new in zip(letters, string.ascii_letters, strict=False)}
    return equation.translate(renamed)


def to_quimb(model: Subject) -> Any:
    """The model as a tensor network of quimb.

    Parameters
    ----------
    model : Fit or Model
        A model of one term, or a fit.

    Returns
    -------
    quimb.tensor.TensorNetwork
        One tensor for each block, tagged with its name ("core 2").  Outer indices are "mode 1", "mode 2", ..., or the
        dimension names of a fit; inner ones are "bond 1", ....  That of a CPD is a hyperindex: name the outer indices
        when it is contracted, `network.contract(output_inds=("mode 1", "mode 2"))`.

    Raises
    ------
    TypeError
        When the model is a sum of several terms.
    ImportError
        Without quimb.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.interop import to_quimb
    >>> chain = tc.TensorChain.random((4, 5, 6), (2, 3, 2), rng=0)
    >>> network = to_quimb(chain)
    >>> sorted(network.outer_inds()), network.num_tensors
    (['mode 1', 'mode 2', 'mode 3'], 3)
    >>> full = network.contract(output_inds=("mode 1", "mode 2", "mode 3"))
    >>> np.allclose(full.data, chain.full())
    True
    """
    labels = labels_of(model)
    expressions = to_einsum(model)
    if len(expressions) > 1:
        raise TypeError(
            f"a tensor network is one product, a {type(labels.model).__name__} of {len(expressions)} terms was given; "
            "convert them one by one: [to_quimb(term) for term in model.terms]"
        )
    try:
        quimb: Any = import_module("quimb.tensor")
    except ImportError as error:
        raise ImportError("to_quimb needs quimb: pip install tensorchain[interop]") from error
    network, (term,) = labels.model.network, labels.model.network.terms
    inner = {letter: f"bond {n + 1}" for n, (letter, _) in enumerate(term.sizes)}
    tensors = []
    for k, (operand, mode) in enumerate(zip(expressions[0].operands, network.modes, strict=True)):
        outer = [] if mode is None else [labels.modes[mode]]
        indices = [*outer, *(inner[letter] for letter in term.bonds[k])]
        tensors.append(quimb.Tensor(operand, inds=indices, tags=[labels.model.block_names[k]]))
    return quimb.TensorNetwork(tensors)

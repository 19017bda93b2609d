"""A decomposition as an estimator of scikit-learn: the first mode holds the samples.

Unfold a model along mode 1, X_(1) = B L^T: row i of the block B (I_1, P) describes sample i by P features, and L, made
of all other blocks, is common to all samples.  `fit` decomposes the training samples; `transform` describes others by
the same L, by least squares,

    B_new = argmin ||T_new - B L^T||,      B_new M^T = T_new L*,      M = L^H L,

which is one step of alternating least squares, at the cost of one pass over the new data, and what
``decompose(T_new, init=model, fixed=...)`` finds with all blocks fixed but that one; `inverse_transform` is B L^T.

The class follows the conventions of scikit-learn by itself (parameters are the arguments of `__init__`, results end in
an underscore) and imports it only when a pipeline asks for its tags.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.api import decompose
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.solvers import Constraint, Free, Solver
from tensorchain.solvers.constraints.fixed import fitted_blocks
from tensorchain.tensors import Tensor, as_tensor

_OUTPUTS = ("default", "pandas", "polars")


class Decomposition:
    """Features of samples that are matrices or tensors, from any model.

    Parameters
    ----------
    model, rank, solver, constraint, init, fixed, starts, max_seconds : object, optional
        As in :func:`tensorchain.decompose`; where `init` is a model, its kind and rank count.
    random_state : int or numpy.random.Generator, optional
        Its `rng`: a seed or a generator.

    Attributes
    ----------
    fit_ : Fit
        The `Fit` of the training samples.
    n_features_out_ : int
        P, the number of features.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> samples = tc.datasets.exact_cp((20, 6, 5), 3, np.random.default_rng(0)).tensor
    >>> estimator = tc.Decomposition("cp", 3, random_state=0).fit(samples[:15])
    >>> features = estimator.transform(samples[15:])
    >>> features.shape, bool(np.allclose(estimator.inverse_transform(features), samples[15:], atol=1e-4))
    ((5, 3), True)
    """

    def __init__(
        self,
        model: str | type[Model] | None = "tc",
        rank: Any = 2,
        *,
        solver: Solver | None = None,
        constraint: Constraint | None = None,
        init: str | Model = "random",
        fixed: int | str | Sequence[int | str] | None = None,
        starts: int = 1,
        max_seconds: float | None = None,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        # Kept as they are, and checked by `fit`: scikit-learn copies an estimator by its parameters.
        self.model = model
        self.rank = rank
        self.solver = solver
        self.constraint = constraint
        self.init = init
        self.fixed = fixed
        self.starts = starts
        self.max_seconds = max_seconds
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Decomposition:
        """Decompose the samples.

        Parameters
        ----------
        X : object
            Array or data source (samples, I_2, ..., I_N).
        y : object, optional
            Ignored.

        Returns
        -------
        Decomposition
            The estimator itself.

        Raises
        ------
        TypeError
            As :func:`tensorchain.decompose`.
        ValueError
            As :func:`tensorchain.decompose`.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> X = np.random.default_rng(0).standard_normal((6, 4, 3))
        >>> tc.Decomposition("cp", 2, random_state=0).fit(X).fit_.model.shape
        (6, 4, 3)
        """
        self._fit(X)
        return self

    def fit_transform(self, X: Any, y: object = None) -> Any:
        """Decompose the samples and return their features, (samples, P).

        Parameters
        ----------
        X : object
            (samples, I_2, ..., I_N).
        y : object, optional
            Ignored.

        Returns
        -------
        ndarray or data frame
            (samples, P).

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> X = np.random.default_rng(0).standard_normal((6, 4, 3))
        >>> tc.Decomposition("cp", 2, random_state=0).fit_transform(X).shape
        (6, 2)
        """
        model = self._fit(X)
        return self._put_out(np.array(model.matrices[model.network.block_of_mode[0]]), X)

    def transform(self, X: Any) -> Any:
        """Features of samples, by least squares with all other blocks held; non-negative where `constraint` says so.

        Parameters
        ----------
        X : object
            Array or data source (samples, I_2, ..., I_N), with the I_2, ..., I_N of `fit`.

        Returns
        -------
        object
            (samples, P); a data frame where `set_output` asked for one.

        Raises
        ------
        AttributeError
            Before `fit`.
        ValueError
            When the samples have another shape than those of `fit`.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> X = np.random.default_rng(0).standard_normal((6, 4, 3))
        >>> tc.Decomposition("cp", 2, random_state=0).fit(X).transform(X[:2]).shape
        (2, 2)
        """
        return self._put_out(self._features(_samples(X)), X)

    def _features(self, source: Tensor) -> Array:
        model = self._fitted()
        if source.shape[1:] != model.shape[1:]:
            raise ValueError(f"samples of shape {source.shape[1:]} were given; those of `fit` have {model.shape[1:]}")
        k = model.network.block_of_mode[0]
        around = model.with_matrix(k, np.zeros((source.shape[0], model.matrices[k].shape[1]), dtype=model.dtype))
        domain = (Free() if self.constraint is None else self.constraint).domain
        computed = source.computed()
        at = computed.evaluator(around.astype(np.result_type(around.dtype, computed.dtype)))
        features: Array = fitted_blocks(at, [k], domain).matrices[k]
        return features.astype(model.dtype, copy=False)

    def inverse_transform(self, X: Any) -> Array:
        """Samples from their features.

        Parameters
        ----------
        X : object
            Array (samples, P).

        Returns
        -------
        ndarray
            (samples, I_2, ..., I_N).

        Raises
        ------
        AttributeError
            Before `fit`.
        ValueError
            When there is another number of features.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> X = np.random.default_rng(0).standard_normal((6, 4, 3))
        >>> estimator = tc.Decomposition("cp", 2, random_state=0).fit(X)
        >>> estimator.inverse_transform(estimator.transform(X)).shape
        (6, 4, 3)
        """
        model = self._fitted()
        features = np.asarray(X)
        if features.ndim != 2 or features.shape[1] != self.n_features_out_:
            raise ValueError(
                f"features of shape {features.shape} were given; (samples, {self.n_features_out_}) is needed"
            )
        return model.with_matrix(model.network.block_of_mode[0], features).full()

    def score(self, X: Any, y: object = None) -> float:
        """How much of samples is explained: 1 - ||T - X||^2 / ||T||^2 with their features by least squares.

        Missing entries of `Masked` and `Observed` do not count.  No mean is subtracted, so that zeros explain nothing.

        Parameters
        ----------
        X : object
            Array or data source (samples, I_2, ..., I_N), with the I_2, ..., I_N of `fit`.
        y : object, optional
            Ignored.

        Returns
        -------
        float
            At most 1, the larger the better, as cross-validation in scikit-learn wants it; 1 for samples of zeros.

        Raises
        ------
        AttributeError
            Before `fit`.
        ValueError
            When the samples have another shape than those of `fit`.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> samples = tc.datasets.exact_cp((20, 6, 5), 3, np.random.default_rng(0)).tensor
        >>> round(tc.Decomposition("cp", 3, random_state=0).fit(samples[:15]).score(samples[15:]), 6)
        1.0
        """
        source = _samples(X)
        features = self._features(source)
        model = self._fitted()
        size = source.norm()
        if size == 0.0:
            return 1.0
        missed = source.residual_norm(model.with_matrix(model.network.block_of_mode[0], features))
        return 1.0 - (missed / size) ** 2

    def get_feature_names_out(self, input_features: object = None) -> Array:
        """Names of the features: "decomposition0", "decomposition1", ..., as scikit-learn names those of its classes.

        Parameters
        ----------
        input_features : object, optional
            Ignored.

        Returns
        -------
        ndarray
            (P,) of str objects.

        Raises
        ------
        AttributeError
            Before `fit`.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> X = np.random.default_rng(0).standard_normal((6, 4, 3))
        >>> len(tc.Decomposition("cp", 2, random_state=0).fit(X).get_feature_names_out())
        2
        """
        self._fitted()
        prefix = type(self).__name__.lower()
        return np.array([f"{prefix}{p}" for p in range(self.n_features_out_)], dtype=object)

    def set_output(self, *, transform: str | None = None) -> Decomposition:
        """What `transform` and `fit_transform` return.

        Parameters
        ----------
        transform : str, optional
            "default" for arrays, "pandas" or "polars" for data frames; None leaves it as it is.

        Returns
        -------
        Decomposition
            The estimator itself.

        Raises
        ------
        ValueError
            For another name.

        Examples
        --------
        >>> import tensorchain as tc
        >>> tc.Decomposition("cp", 2).set_output(transform="pandas").get_params()["rank"]
        2
        """
        if transform not in (None, *_OUTPUTS):
            raise ValueError(f"transform is {transform!r}; {', '.join(_OUTPUTS)} are known")
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self

    def _put_out(self, features: Array, X: Any) -> Any:
        """The features as an array, or as the data frame that was asked for."""
        configured: dict[str, str] = getattr(self, "_sklearn_output_config", {})
        wanted = configured.get("transform")
        if wanted is None and "sklearn" in sys.modules:
            from sklearn import get_config

            wanted = get_config()["transform_output"]
        if wanted in (None, "default"):
            return features
        try:
            library = importlib.import_module(str(wanted))
        except ImportError as error:
            raise ImportError(f"data frames of {wanted} were asked for by set_output; install the package") from error
        names = self.get_feature_names_out()
        if wanted == "polars":
            return library.DataFrame(features, schema=names.tolist(), orient="row")
        return library.DataFrame(features, index=getattr(X, "index", None), columns=names)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of `__init__` by name.

        Parameters
        ----------
        deep : bool, default True
            Without a meaning here; scikit-learn passes it.

        Returns
        -------
        dict of str to object
            By name.

        Examples
        --------
        >>> import tensorchain as tc
        >>> tc.Decomposition("cp", 2).get_params()["rank"]
        2
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> Decomposition:
        """Change arguments of `__init__`.

        Parameters
        ----------
        **parameters : object
            New values by name.

        Returns
        -------
        Decomposition
            The estimator itself.

        Raises
        ------
        ValueError
            For a name that is none.

        Examples
        --------
        >>> import tensorchain as tc
        >>> tc.Decomposition("cp", 2).set_params(rank=3).get_params()["rank"]
        3
        """
        known = self.get_params()
        for name, value in parameters.items():
            if name not in known:
                raise ValueError(f"{name!r} is no parameter of {type(self).__name__}; known are {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        default = inspect.signature(type(self)).parameters
        given = [f"{name}={value!r}" for name, value in self.get_params().items() if value is not default[name].default]
        return f"{type(self).__name__}({', '.join(given)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fit_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(two_d_array=True, three_d_array=True, allow_nan=False),
        )

    def _fit(self, X: Any) -> Model:
        init = {"model": self.model, "rank": self.rank} if isinstance(self.init, str) else {}
        self.fit_ = decompose(
            _samples(X), **init, solver=self.solver, constraint=self.constraint, init=self.init, fixed=self.fixed,
            starts=self.starts, rng=self.random_state, max_seconds=self.max_seconds,
        )  # fmt: skip
        model = self.fit_.model
        self.n_features_out_ = model.matrices[model.network.block_of_mode[0]].shape[1]
        return model

    def _fitted(self) -> Model:
        if not hasattr(self, "fit_"):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet; call fit(samples) first")
        return self.fit_.model


def _samples(X: Any) -> Tensor:
    """What scikit-learn calls X, as a data class; a data frame is the matrix of its numbers."""
    return as_tensor(X.to_numpy() if type(X).__name__ == "DataFrame" and hasattr(X, "to_numpy") else X)

"""What a tensor can be written as: models that are multilinear in their blocks."""

from tensorchain.models.base import Model, load
from tensorchain.models.block_term import BlockTerm
from tensorchain.models.chain import TensorChain
from tensorchain.models.cp import CP
from tensorchain.models.network import Network
from tensorchain.models.normal_forms import WeightedFactors
from tensorchain.models.rounding import Rounded
from tensorchain.models.tables import Components
from tensorchain.models.tucker import Tucker

__all__ = [
    "CP",
    "BlockTerm",
    "Components",
    "Model",
    "Network",
    "Rounded",
    "TensorChain",
    "Tucker",
    "WeightedFactors",
    "load",
]

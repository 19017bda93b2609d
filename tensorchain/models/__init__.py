"""What a tensor can be written as: models that are multilinear in their blocks."""

from tensorchain.models.base import Model, load
from tensorchain.models.block_term import BlockTerm
from tensorchain.models.chain import TensorChain
from tensorchain.models.cp import CP
from tensorchain.models.network import Network
from tensorchain.models.tucker import Tucker

__all__ = ["CP", "BlockTerm", "Model", "Network", "TensorChain", "Tucker", "load"]

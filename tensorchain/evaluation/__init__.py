"""Products of one tensor with the models of one run, and what is used again between them."""

from tensorchain.evaluation.dense import DenseEvaluator
from tensorchain.evaluation.evaluator import Evaluator
from tensorchain.evaluation.partials import Partials
from tensorchain.evaluation.small import SmallEvaluator

__all__ = ["DenseEvaluator", "Evaluator", "Partials", "SmallEvaluator"]

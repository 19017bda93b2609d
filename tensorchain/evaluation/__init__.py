"""Products of one tensor with the models of one run, and what is kept between them."""

from tensorchain.evaluation.evaluator import Evaluator

__all__ = ["Evaluator"]

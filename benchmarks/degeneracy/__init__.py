"""Solvers of this package and of others on tensors on which decompositions break."""

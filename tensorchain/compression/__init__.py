"""Compression of convolutional networks by decompositions whose sensitivity is controlled.

`compress`, `restore` and `quantize` work on PyTorch networks; `compress_onnx` on ONNX files without PyTorch.  The
mathematics below them is free of both.
"""

from tensorchain.compression.allocation import Allocation, allocate, one_step
from tensorchain.compression.budgets import agreement, compress_within, output_error
from tensorchain.compression.conv import Convolution, Fold, Geometry, LayerPlan, Unfold
from tensorchain.compression.fitting import METHODS, KernelFit, fit_kernel
from tensorchain.compression.grid import GridFit, fit_on_grid
from tensorchain.compression.layer_bits import LayerBits, allocate_layer_bits
from tensorchain.compression.network import plan_network
from tensorchain.compression.normalisations import recalibrate
from tensorchain.compression.onnx_budgets import compress_onnx_within
from tensorchain.compression.onnx_graph import compress_onnx
from tensorchain.compression.onnx_int8 import quantize_onnx
from tensorchain.compression.onnx_restore import Restored, restore_onnx
from tensorchain.compression.onnx_trial import OutputError, Trial, try_models
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.plans import kernel_tensor, plan_of, tensor_kernel
from tensorchain.compression.quantize import Quantizer, from_range, quantizer
from tensorchain.compression.ranks import VariationalRank, energy_rank, evbmf, multilinear_rank
from tensorchain.compression.refit import Moments, refit_last
from tensorchain.compression.refit_factors import refit_factors
from tensorchain.compression.report import LayerReport, Report, StepReport
from tensorchain.compression.request import Request, Site
from tensorchain.compression.sandwich import Sandwich
from tensorchain.compression.steps import compress_in_steps, compress_to_score
from tensorchain.compression.torch_files import load_network, save_network
from tensorchain.compression.torch_layers import module_of
from tensorchain.compression.torch_network import compress
from tensorchain.compression.torch_refit import refit_network
from tensorchain.compression.torch_rounding import quantize
from tensorchain.compression.training import Epoch, restore

__all__ = [
    "METHODS",
    "Allocation",
    "Convolution",
    "Epoch",
    "Fold",
    "Geometry",
    "GridFit",
    "KernelFit",
    "LayerBits",
    "LayerPlan",
    "LayerReport",
    "Moments",
    "OutputError",
    "PatchCovariance",
    "Quantizer",
    "Report",
    "Request",
    "Restored",
    "Sandwich",
    "Site",
    "StepReport",
    "Trial",
    "Unfold",
    "VariationalRank",
    "agreement",
    "allocate",
    "allocate_layer_bits",
    "compress",
    "compress_in_steps",
    "compress_onnx",
    "compress_onnx_within",
    "compress_to_score",
    "compress_within",
    "energy_rank",
    "evbmf",
    "fit_kernel",
    "fit_on_grid",
    "from_range",
    "kernel_tensor",
    "load_network",
    "module_of",
    "multilinear_rank",
    "one_step",
    "output_error",
    "plan_network",
    "plan_of",
    "quantize",
    "quantize_onnx",
    "quantizer",
    "recalibrate",
    "refit_factors",
    "refit_last",
    "refit_network",
    "restore",
    "restore_onnx",
    "save_network",
    "tensor_kernel",
    "try_models",
]

"""Compressed PyTorch networks in files that run no code.

A file has the state of the network, and beside it, in JSON, the report and the form of each layer that was replaced:
kinds, sizes and strides of its small layers.  With the original network, in which all else is as it was, these give the
compressed one.  The format is that of safetensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tensorchain.compression.progress import plan_of_record, plan_record
from tensorchain.compression.report import report_of_record
from tensorchain.compression.torch_layers import decomposed, plan_of_module, with_plans
from tensorchain.models.atomic import replacing

_ENTRY = "tensorchain.compressed"


def save_network(net: Any, path: str | os.PathLike[str]) -> None:
    """Write a compressed network.

    Parameters
    ----------
    net : torch.nn.Module
        As `compress` returns it, restored or not.
    path : str or os.PathLike[str]
        File to write, as a whole or not at all.

    Raises
    ------
    ImportError
        Without safetensors.
    ValueError
        When the network was not made by `compress`, or its weights pass through the rounding of `quantize`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from tensorchain.compression import compress
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3)).eval()
    >>> images = torch.randn(2, 8, 8, 8)
    >>> small = compress(net, images, "tucker2", keep_macs=0.5, candidates=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_network(small, f"{folder}/small.safetensors")
    ...     again = load_network(net, f"{folder}/small.safetensors")
    >>> torch.equal(again(images), small(images))
    True
    """
    if getattr(net, "report", None) is None:
        raise ValueError("the network has no report; save_network takes what compress returns")
    if hasattr(net, "bits"):
        raise ValueError("the weights pass through a rounding; save the network before quantize, and quantize again")
    record = json.dumps(record_of(net))
    # Names may share a tensor; files of this format may not.
    tensors = {name: value.detach().clone().contiguous() for name, value in net.state_dict().items()}
    package = _safetensors()
    with replacing(path) as temporary:
        package.torch.save_file(tensors, temporary, metadata={_ENTRY: record})


def load_network(original: Any, path: str | os.PathLike[str]) -> Any:
    """Read a compressed network.

    Parameters
    ----------
    original : torch.nn.Module
        The network that was compressed; it is not changed.  Its weights are not read, so that it may also be one that
        was just made.
    path : str or os.PathLike[str]
        File that `save_network` wrote.

    Returns
    -------
    torch.nn.Module
        A new module in evaluation mode, with its `.report`.

    Raises
    ------
    ImportError
        Without safetensors.
    FileNotFoundError
    ValueError
        When it is no such file, or one of another network.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from tensorchain import compression
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3))
    >>> small = compression.compress(net, torch.randn(1, 8, 8, 8), "tucker2", keep_macs=0.5, candidates=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_network(small, f"{folder}/small.safetensors")
    ...     again = load_network(net, f"{folder}/small.safetensors")
    >>> images = torch.randn(2, 8, 8, 8)
    >>> torch.allclose(again(images), small(images))
    True
    """
    package = _safetensors()
    if not Path(path).is_file():
        raise FileNotFoundError(f"{os.fspath(path)!r} is no file")
    try:
        with package.safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})[_ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
    except (package.SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{os.fspath(path)!r} is no file that save_network wrote") from error
    try:
        return of_record(original, record, tensors)
    except (AttributeError, RuntimeError) as error:
        raise ValueError(f"{os.fspath(path)!r} is of another network: {error}") from error


def record_of(net: Any) -> dict[str, Any]:
    """The report of a compressed network, and the form of each new layer, as what JSON can hold."""
    plans = {
        name: plan_record(plan_of_module(net.get_submodule(name), layer.method, layer.rank))[0]
        for name, layer in decomposed(net).items()
    }
    return {"plans": plans, "report": {**asdict(net.report), "steps": []}}


def of_record(original: Any, record: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
    """The network of a record and a state, from the one that was compressed."""
    plans = {name: plan_of_record(plan) for name, plan in record["plans"].items()}
    small = with_plans(original, plans, report_of_record(record["report"]))
    small.load_state_dict(state)
    return small


def _safetensors() -> Any:
    """The package safetensors with the parts that are used, or an error that names the extra."""
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError("files of networks need safetensors: pip install tensorchain[torch]") from error
    return safetensors

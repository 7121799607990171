"""The architecture's encoder in PyTorch, with the checkpoint's weights in it.

It is built without memory first: what config.json asks for is held to the weights by names and shapes before anything of that size exists.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PretrainedConfig

from cls_exporter.checkpoint.configuration import Configuration
from cls_exporter.checkpoint.placement import Placement, place
from cls_exporter.checkpoint.tensor_files import as_float32
from cls_exporter.errors import CheckpointError, as_checkpoint_error


def build_encoder(configuration: Configuration, tensors: Mapping[str, Tensor]) -> tuple[Any, Placement]:
    """The encoder without pooler, in eval mode, fp32, on the CPU; and where each of `tensors` went. The caller's random state is kept.

    Raises:
        CheckpointError: config.json does not describe a model, or one that these weights do not fit.
        UnsupportedError: a weight holds no floating point numbers, or is an adapter's.
    """
    if configuration.runs_code:
        encoder = _build(configuration, configuration.loaded, device="cpu")  # code of the checkpoint's own may need numbers to build itself
        placement = _placed(configuration, encoder, tensors)
    else:
        _check_layers(configuration.loaded, configuration.architecture.model_type, stored=len(tensors))
        placement = _placed(configuration, _build(configuration, configuration.loaded), tensors)
        encoder = _build(configuration, configuration.loaded, device="cpu")
    weights = {name: as_float32(name, tensor) for name, tensor in placement.encoder.items()}
    encoder.load_state_dict(weights, strict=False, assign=True)
    return encoder, placement


def _check_layers(config: PretrainedConfig, model_type: str, *, stored: int) -> None:
    """Every layer has weights of its own, but ALBERT's, which are built once a group."""
    for field in ("num_hidden_groups", "inner_group_num") if model_type == "albert" else ("num_hidden_layers",):
        if getattr(config, field) > stored:
            raise CheckpointError(
                f"config.json has {field} {getattr(config, field)} and the weights hold {stored} tensors; they are of different models"
            )


def _placed(configuration: Configuration, encoder: Any, tensors: Mapping[str, Tensor]) -> Placement:
    expected, architecture, dropped = encoder.state_dict(), configuration.architecture, set()
    if configuration.unchanged is not None:
        _check_layers(configuration.unchanged, architecture.model_type, stored=len(tensors))
        dropped = {*_build(configuration, configuration.unchanged).state_dict()} - {*expected}
    return place(tensors, expected, computed=architecture.computed, tied=_tied(configuration, encoder), dropped=dropped)


def _tied(configuration: Configuration, encoder: Any) -> str | None:
    """The name of the word embeddings, where config.json ties the training objective's decoder to them."""
    if not getattr(configuration.loaded, "tie_word_embeddings", True):
        return None
    words = encoder.get_input_embeddings().weight
    return next((name for name, parameter in encoder.named_parameters() if parameter is words), None)


def _build(configuration: Configuration, config: PretrainedConfig, *, device: str = "meta") -> Any:
    kwargs: dict[str, Any] = {"trust_remote_code": configuration.runs_code}
    kind: Any = AutoModel._model_mapping.get(type(config), None)  # noqa: SLF001
    if kind is not None and "add_pooling_layer" in inspect.signature(kind).parameters:
        kwargs["add_pooling_layer"] = False
    with (
        as_checkpoint_error(lambda reason: f"config.json does not describe a model that can be built ({reason}); correct it"),
        torch.random.fork_rng(devices=[]),
        torch.device(device),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        factory: Any = AutoModel
        encoder = factory.from_config(config, attn_implementation="eager", dtype=torch.float32, **kwargs)
    return encoder.eval()

"""What makes an output of a row, as products with an activation and a norm behind each."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers.activations import ACT2FN

from cls_exporter.checkpoint.model import ClsModel
from cls_exporter.checkpoint.pooler import TanhPooler
from cls_exporter.native.activations import activation_of
from cls_exporter.native.packing import Matrix, norm, product
from cls_exporter.native.reasons import NotNativeError
from cls_runtime.engines.native.weights import HeadName, HeadStep

# transformers' classifiers on a sequence's first row: dense, an activation, out_proj. ELECTRA's has its activation as a module.
_TANH_HEADS = ("RobertaClassificationHead", "XLMRobertaClassificationHead", "CamembertClassificationHead", "MPNetClassificationHead")


def heads_of(model: ClsModel) -> dict[HeadName, tuple[HeadStep, ...]]:
    """The steps of every output that is not a row itself.

    Raises:
        NotNativeError: a module that the kernels do not compute.
    """
    heads: dict[HeadName, tuple[HeadStep, ...]] = {}
    if model.dense is not None:
        heads["sentence"] = _steps(model.dense, "the Dense module")
    pooler = () if model.pooler is None else _steps(model.pooler, "the pooler")
    if "pooler" in model.output_names:
        heads["pooler"] = pooler
    if model.head is not None:
        heads["logits"] = (*(pooler if model.head.reads == "pooled" else ()), *_steps(model.head.module, "the classifier"))
    return heads


def _steps(module: nn.Module, where: str) -> tuple[HeadStep, ...]:
    """The modules grouped: each Linear takes the activation and the norm behind it."""
    steps: list[HeadStep] = []
    for part in _flat(module):
        last = steps[-1] if steps else None
        if isinstance(part, nn.Linear):
            steps.append(HeadStep(product=product(Matrix.of(part))))
        elif isinstance(part, nn.LayerNorm):
            if last is None or last.norm is not None or last.activation == "sigmoid":
                raise NotNativeError(f"a norm of {where} with no product before it")
            steps[-1] = HeadStep(product=last.product, activation=last.activation, norm=norm(part))
        else:
            activation = activation_of(part, where=where)
            if activation == "identity":
                continue
            if last is None or last.norm is not None or last.activation != "identity":
                raise NotNativeError(f"an activation of {where} with no product before it")
            steps[-1] = HeadStep(product=last.product, activation=activation)
    if not steps:
        raise NotNativeError(f"{where} without a product")
    return tuple(steps)


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    """What a module computes, in order."""
    kind = type(module).__name__
    if isinstance(module, nn.Dropout):
        return
    if isinstance(module, nn.Sequential):
        for part in module:
            yield from _flat(part)
    elif isinstance(module, TanhPooler):
        yield from (module.dense, nn.Tanh())
    elif kind in _TANH_HEADS:
        yield from _parts(module, "dense", nn.Tanh(), "out_proj")
    elif kind == "ElectraClassificationHead":
        yield from _parts(module, "dense", _part(module, "activation"), "out_proj")
    elif kind == "RoFormerClassificationHead":
        yield from _parts(module, "dense", ACT2FN[module.config.hidden_act], "out_proj")  # type: ignore[union-attr]
    elif kind == "ModernBertPredictionHead":
        yield from _parts(module, "dense", _part(module, "act"), "norm")
    else:
        yield module


def _parts(module: nn.Module, first: str, activation: nn.Module, last: str) -> Iterator[nn.Module]:
    yield from (_part(module, first), activation, _part(module, last))


def _part(module: nn.Module, name: str) -> nn.Module:
    part: nn.Module = getattr(module, name)
    return part

"""The sequence classifier behind the encoder: the architecture's own, or a wrapper's Linear on the CLS row."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cls_exporter.checkpoint.architectures import Architecture
from cls_exporter.checkpoint.configuration import Configuration
from cls_exporter.checkpoint.model import ClassifierHead
from cls_exporter.checkpoint.tensor_files import as_float32
from cls_exporter.checkpoint.weights import shown_name, some_of
from cls_exporter.errors import CheckpointError, UnsupportedError, as_checkpoint_error

_WRAPPER_NAMES = ("fc", "classifier", "head")
# Parts of transformers' classifier module, in order, and what the first one reads.
_PARTS = {
    "pooled": ("classifier",),
    "sequence": ("classifier",),
    "distilbert": ("pre_classifier", "classifier"),
    "context": ("pooler", "classifier"),
    "modernbert": ("head", "classifier"),
}


@dataclass(frozen=True)
class FoundHead:
    """The classifier, the labels in the order of its outputs, the names its weights were stored under, and notes for the report."""

    head: ClassifierHead
    labels: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def find_head(rest: Mapping[str, Tensor], configuration: Configuration, *, pooler_names: tuple[str, ...]) -> FoundHead:
    """The classifier among `rest` (see `placement.Placement`).

    `pooler_names` are the stored names of the pooler, empty where there is none.

    Raises:
        CheckpointError: there is no classifier, more than one reading of it, or its weights do not fit.
        UnsupportedError: the classifier does not read the CLS row.
    """
    architecture = configuration.architecture
    candidates = {name: tensor for name, tensor in rest.items() if name not in pooler_names or architecture.head == "context"}
    saved_as = tuple(configuration.stored.get("architectures") or ())
    native = _native_names(configuration, candidates)
    linear = sorted(name.split(".")[0] for name in candidates if name in {f"{part}.weight" for part in _WRAPPER_NAMES})
    if native is not None and _is_native(architecture, native, saved_as, pooler_names):
        return _native_head(candidates, native, configuration)
    if architecture.classifier_class in saved_as:
        raise CheckpointError(
            f"config.json says {architecture.classifier_class} but the weights lack its classifier "
            f"(found {some_of(sorted(rest)) or 'none'}); --logits needs trained classifier weights"
        )
    if len(linear) == 1:
        return _linear_head(candidates, linear[0], configuration)
    if len(linear) > 1:
        raise CheckpointError(f"the weights hold several classifiers ({', '.join(linear)}); expected one; remove those that are not used")
    raise CheckpointError(
        f"--logits needs a sequence classifier, but the checkpoint has no weights of one (found {some_of(sorted(candidates)) or 'none'}); "
        "expected a *ForSequenceClassification checkpoint or a Linear named fc, classifier or head"
    )


def _native_names(configuration: Configuration, candidates: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """The names of the architecture's own classifier, None where one of them is not stored."""
    parts = _classifier_parts(configuration, labels=2)
    names = tuple(f"{part}.{name}" for part, module in parts.items() for name in module.state_dict())
    return names if all(name in candidates for name in names) else None


def _is_native(architecture: Architecture, native: tuple[str, ...], saved_as: tuple[str, ...], pooler_names: tuple[str, ...]) -> bool:
    """Whether weights under the native names are the architecture's classifier.

    Only `classifier.weight` of a pooled family can be anything else: a wrapper's Linear on the CLS row has the same name.
    """
    other = [name for name in saved_as if name.endswith(("ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering"))]
    if other:
        raise UnsupportedError(
            f"--logits: config.json says {some_of(other[:1])}, whose classifier is not one of whole sequences; "
            f"expected {architecture.classifier_class}"
        )
    if architecture.classifier_class in saved_as or architecture.head != "pooled":
        return True
    if not pooler_names:
        return False
    if not saved_as:
        return True
    raise CheckpointError(
        f"{native[0]} may read the pooler (as in {architecture.classifier_class}) or the CLS row (as in a wrapper): config.json "
        f"says {some_of(saved_as)}; set its architectures to "
        f"[{architecture.classifier_class!r}], or rename the classifier to fc for the CLS row"
    )


def _native_head(candidates: Mapping[str, Tensor], names: tuple[str, ...], configuration: Configuration) -> FoundHead:
    architecture, loaded = configuration.architecture, configuration.loaded
    if architecture.head == "modernbert" and loaded.classifier_pooling != "cls":
        pooling = shown_name(str(loaded.classifier_pooling))
        raise UnsupportedError(
            f"--logits: the classifier reads the {pooling} of all tokens (classifier_pooling in config.json); "
            "the exported graph computes the CLS row only, expected 'cls'"
        )
    output = "classifier.out_proj.weight" if "classifier.out_proj.weight" in names else "classifier.weight"
    rows = _rows(candidates, output)
    labels = _labels(configuration.stored, rows, output)
    parts = _classifier_parts(configuration, labels=rows)
    for part, module in parts.items():
        weights = {name: as_float32(f"{part}.{name}", candidates[f"{part}.{name}"]) for name in module.state_dict()}
        for name, parameter in module.state_dict().items():
            if weights[name].shape != parameter.shape:
                shape, expected = list(weights[name].shape), list(parameter.shape)
                raise CheckpointError(f"{part}.{name} is {shape}, expected {expected}; config.json and the weights are of different models")
        module.load_state_dict(weights, assign=True)
    modules = list(parts.values())
    if architecture.head == "distilbert":
        modules.insert(1, nn.ReLU())
    note = f"logits are those of {architecture.classifier_class} ({rows} outputs)"
    reads = {"pooled": "pooled", "sequence": "hidden", "context": "hidden"}.get(architecture.head, "row")
    head = ClassifierHead(nn.Sequential(*modules), reads=reads)  # type: ignore[arg-type]
    return FoundHead(head, labels, names, (note,))


def _classifier_parts(configuration: Configuration, *, labels: int) -> dict[str, nn.Module]:
    """transformers' own classifier modules, without memory behind their parameters."""
    import transformers

    id2label = {index: f"LABEL_{index}" for index in range(labels)}
    label2id = {label: index for index, label in id2label.items()}
    fields = {**configuration.loaded.to_dict(), "id2label": id2label, "label2id": label2id}
    fields.pop("num_labels", None)
    sized = type(configuration.loaded).from_dict(fields)
    name = configuration.architecture.classifier_class
    with (
        as_checkpoint_error(lambda reason: f"--logits: config.json does not describe a {name} that can be built ({reason}); correct it"),
        torch.device("meta"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        model = getattr(transformers, name)(sized)
        return {part: getattr(model, part) for part in _PARTS[configuration.architecture.head]}


def _rows(candidates: Mapping[str, Tensor], name: str) -> int:
    shape = candidates[name].shape
    if len(shape) != 2 or not shape[0]:
        raise CheckpointError(f"{name} is {list(shape)}; expected [labels, width] with at least one label")
    return int(shape[0])


def _linear_head(candidates: Mapping[str, Tensor], part: str, configuration: Configuration) -> FoundHead:
    hidden = configuration.hidden
    names = tuple(name for name in (f"{part}.weight", f"{part}.bias") if name in candidates)
    rows = _rows(candidates, f"{part}.weight")
    weight = as_float32(f"{part}.weight", candidates[f"{part}.weight"])
    bias = as_float32(f"{part}.bias", candidates[f"{part}.bias"]) if len(names) == 2 else torch.zeros(rows)
    if weight.shape[1] != hidden or bias.shape != weight.shape[:1]:
        raise CheckpointError(
            f"{part}.weight is {list(weight.shape)} and {part}.bias {list(bias.shape)}; a Linear on the CLS row is [labels, {hidden}] "
            "and [labels]; it cannot be placed"
        )
    module = nn.Linear(hidden, rows, device="meta")
    module.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    note = f"logits: {part}.weight was read as a Linear on the CLS row ({rows} outputs), without pooler"
    return FoundHead(ClassifierHead(module, reads="row"), _labels(configuration.stored, rows, f"{part}.weight"), names, (note,))


def _labels(stored: Mapping[str, Any], rows: int, name: str) -> tuple[str, ...]:
    named = stored.get("id2label")
    if named is None:
        return tuple(f"LABEL_{index}" for index in range(rows))
    if named.keys() != {str(index) for index in range(rows)}:
        raise CheckpointError(
            f"{name} has {rows} outputs but id2label in config.json names {len(named)}; expected one label for each; correct config.json"
        )
    labels = tuple(str(named[str(index)]) for index in range(rows))
    if len(set(labels)) < rows:
        second = next(index for index, label in enumerate(labels) if label in labels[:index])
        raise CheckpointError(
            f"id2label in config.json gives outputs {labels.index(labels[second])} and {second} one name, {shown_name(labels[second])}; "
            "their logits could not be told apart; expected a different name for each; correct config.json"
        )
    return labels

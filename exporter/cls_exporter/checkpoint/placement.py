"""Which tensor of a checkpoint is which parameter.

People save encoders inside classifiers, masked-LM models and wrapper modules of their own, so names come with prefixes. The encoder is
found by its own expected names, whatever stands before them; every other tensor must be recognised, or the checkpoint is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from cls_exporter.checkpoint.weights import shown_name, some_of
from cls_exporter.errors import CheckpointError, UnsupportedError

# Parts of training objectives: they read the encoder and nothing that is exported reads them.
_OBJECTIVES = re.compile(
    r"(^|\.)(predictions|lm_head|lm_predictions|mask_predictions|vocab_transform|vocab_layer_norm|vocab_projector|vocab_projection"
    r"|generator_predictions|generator_lm_head|discriminator_predictions|seq_relationship|sop_classifier|qa_outputs|decoder)\."
)
# What the word embeddings are tied to. transformers writes one of the two.
_TIED_TO = re.compile(r"(^|\.)(decoder|vocab_projector|generator_lm_head)\.weight$")
# What PyTorch puts into names, anywhere, where a module is compiled, sharded or recomputed.
_WRAPPER = re.compile(r"(^|\.)(?:(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")
# A parameter-efficient training's own tensors, and where it puts the ones that it adds to.
_ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer)(\.|$)")
# Constants that older versions of transformers saved.
_BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids|inv_freq|original_inv_freq)$")
# The prediction head of ModernBERT's masked-LM model has the same name as its classifier's.
_HEADS = re.compile(r"^(classifier|pre_classifier|pooler|head|fc|score)\.")


@dataclass(frozen=True)
class Placement:
    """A state dict, sorted. Names are relative: `encoder` to the encoder, `rest` to the module around it.

    `rest` holds what may be a pooler or a classifier; `notes` says what was recognised, renamed and left out.
    """

    encoder: dict[str, Tensor]
    rest: dict[str, Tensor]
    notes: tuple[str, ...]


def place(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    computed: Collection[str],
    tied: str | None = None,
    dropped: Collection[str] = (),
) -> Placement:
    """Finds the encoder whose parameters are `expected` (the model's own state dict, for names and shapes) among `tensors`.

    `computed` are parameters that may be missing; `tied` is the one that may be stored as the decoder of the training objective instead.
    `dropped` are the encoder's too, of parts that its configuration leaves out.

    Raises:
        CheckpointError: no or several encoders, missing or misshapen weights, or a tensor that has no place.
        UnsupportedError: there are weights of an adapter.
    """
    _check_merged(tensors)
    renamed, notes = _plainly_named(tensors)
    decoder = None if tied is None else _decoder_instead(renamed, tied)
    required = [name for name in expected if name not in computed and (name != tied or decoder is None)]
    prefix = _encoder_prefix(renamed, required)
    if prefix:
        notes.append(f"the encoder's weights are stored under the prefix {prefix!r}")
    if tied is not None and decoder is not None:
        renamed[prefix + tied] = renamed[decoder]
        notes.append(f"{tied} is stored as {shown_name(decoder)}, which config.json ties it to")
    encoder = {name: renamed.pop(prefix + name) for name in expected if prefix + name in renamed}
    _check_shapes(encoder, expected, prefix)
    left_out_parts = [name for name in sorted(dropped) if renamed.pop(prefix + name, None) is not None]
    if left_out_parts:
        notes.append(f"left out, removed by sentence-transformers' settings: {some_of(left_out_parts)}")
    computed_here = sorted(set(expected) - set(encoder))
    if computed_here:
        notes.append(f"{some_of(computed_here)}: not stored, computed by its formula")
    rest, left_out = _sort_rest(renamed, prefix)
    return Placement(encoder, rest, (*notes, *left_out))


def _plainly_named(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by the names that transformers gives them today, and notes on what was renamed."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = _modern_name(_WRAPPER.sub(r"\1", name))
        if plain in renamed:
            raise CheckpointError(
                f"the weights hold {shown_name(plain)} twice (one is {shown_name(name)}); expected one; remove the one that is not used"
            )
        renamed[plain] = tensor
    notes = []
    if any(_modern_name(name) != name for name in tensors):
        notes.append("LayerNorm gamma and beta, the names of early checkpoints, were read as weight and bias")
    if any(_WRAPPER.search(name) for name in tensors):
        notes.append("prefixes that training programs add to names were removed")
    return renamed, notes


def _modern_name(name: str) -> str:
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def _check_merged(tensors: Mapping[str, Tensor]) -> None:
    adapter = sorted(name for name in tensors if _ADAPTER.search(name))
    if adapter:
        raise UnsupportedError(
            f"the weights hold {len(adapter)} tensors of an adapter (LoRA) that was not merged: {some_of(adapter[:3])}; what it adds would "
            "be missing from the graph; merge it with peft's merge_and_unload(), save that model and export it"
        )


def _decoder_instead(tensors: Mapping[str, Tensor], tied: str) -> str | None:
    """The name of the decoder where its weight is stored and `tied`, under no prefix, is not."""
    if any(f".{name}".endswith(f".{tied}") for name in tensors):
        return None
    decoders = [name for name in tensors if _TIED_TO.search(name)]
    return decoders[0] if len(decoders) == 1 else None


def _encoder_prefix(tensors: Mapping[str, Tensor], required: list[str]) -> str:
    """The prefix under which all `required` names are stored."""
    covered: dict[str, int] = {}
    names = set(required)
    for stored in tensors:
        # Every way to split a stored name at a dot: the second half may be an expected name.
        cuts = [0, *(match.end() for match in re.finditer(r"\.", stored))]
        for cut in cuts:
            if stored[cut:] in names:
                covered[stored[:cut]] = covered.get(stored[:cut], 0) + 1
    whole = sorted(prefix for prefix, count in covered.items() if count == len(required))
    if len(whole) > 1:
        raise CheckpointError(
            f"the weights hold {len(whole)} encoders, under the prefixes {some_of([repr(prefix) for prefix in whole])}; "
            "expected one; save the encoder to export with its own save_pretrained()"
        )
    if whole:
        return whole[0]
    best = max(covered, key=lambda prefix: covered[prefix], default="")
    missing = [name for name in required if best + name not in tensors]
    raise CheckpointError(
        f"the weights lack {len(missing)} of the encoder's {len(required)} tensors: {some_of(missing)}"
        + (f" (looked under the prefix {best!r})" if best else "")
        + f"; found names such as {some_of(sorted(tensors)[:3]) or 'none'}; expected an encoder that fits config.json"
    )


def _check_shapes(encoder: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefix: str) -> None:
    wrong = [
        f"{prefix}{name} is {list(tensor.shape)} but config.json makes it {list(expected[name].shape)}"
        for name, tensor in encoder.items()
        if tensor.shape != expected[name].shape
    ]
    if wrong:
        raise CheckpointError(f"{some_of(wrong)}; config.json and the weights are of different models")


def _sort_rest(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """What may be a pooler or a classifier among the tensors beside the encoder, and notes on what is left out."""
    rest: dict[str, Tensor] = {}
    unplaced, objectives, buffers, counters = [], set(), [], []
    for stored, tensor in tensors.items():
        name = _strip(stored, prefix)
        objective = _OBJECTIVES.search(name)
        if objective:
            objectives.add(objective.group(2))
        elif _BUFFERS.search(name):
            buffers.append(stored)
        elif tensor.numel() == 1 and not (tensor.is_floating_point() or tensor.is_complex()):
            counters.append(stored)
        elif _HEADS.match(name):
            if name in rest:
                raise CheckpointError(f"the weights hold {name} twice (one is {stored}); expected one; remove the one that is not used")
            rest[name] = tensor
        else:
            unplaced.append(stored)
    if unplaced:
        raise CheckpointError(
            f"the weights hold {len(unplaced)} tensors that have no place in this architecture: {some_of(sorted(unplaced))}; "
            "what they do would be missing from the graph; remove them if nothing reads them, or export a model without them"
        )
    notes: list[str] = []
    if objectives:
        notes.append(f"left out, parts of a training objective: {', '.join(sorted(objectives))}")
    if buffers:
        notes.append(f"left out, constants that the model computes itself: {some_of(sorted(buffers))}")
    if counters:
        notes.append(f"left out, counters of the training: {some_of(sorted(counters))}")
    return rest, notes


def _strip(stored: str, prefix: str) -> str:
    """`stored` without the longest part that it shares with the encoder's prefix: `model.pooler.weight` beside `model.bert.`."""
    parents = [prefix[: match.end()] for match in re.finditer(r"\.", prefix)]
    for parent in reversed(parents):
        if stored.startswith(parent):
            return stored[len(parent) :]
    return stored

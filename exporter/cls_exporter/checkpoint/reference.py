"""PyTorch's vectors of any texts: what `cls-verify --against` compares a bundle with.

The runtime finds `reference_vectors` by the entry point group `cls_export.reference` and never imports this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchEncoding

from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.trial import outputs_of
from cls_exporter.config import ExportConfig
from cls_runtime.bundle.manifest import Pooling, TokenizerChoice
from cls_runtime.bundle.token_sample import sampled_positions
from cls_runtime.encoding.texts import Text

Float32 = NDArray[np.float32]

REFERENCE_BATCH = 16
PROMPT_MASK = 2  # of a token that is read and not pooled


def reference_vectors(
    model: str,
    texts: Sequence[Text],
    *,
    outputs: Sequence[str],
    max_length: int,
    tokenizer: TokenizerChoice | None = None,
    pooling: Pooling = "cls",
) -> Mapping[str, Float32]:
    """Loads MODEL and gives its vectors of `texts`, behind no prompt.

    Pooling and an untrained pooler are not refused here: the bundle was exported from them knowingly, and its manifest says so.

    Args:
        model: a hub id or a local folder.
        texts: texts or pairs, at least one.
        outputs: any of `sentence` (and `cls` with that pooling), `pooler`, `logits`, `tokens`.
        max_length: texts are cut to this many tokens.
        tokenizer: which of its tokenizers the bundle was exported with, where they differ.
        pooling: what the bundle's sentence vectors are made of.

    Returns:
        float32 [n, width] for each of `outputs`, from PyTorch in fp32 and eval mode, without padding; of `tokens` a sample of each text's
        rows, one text's after the other's: float32 [R, H].

    Raises:
        CheckpointError: the checkpoint cannot be read, lacks an output, or has two tokenizers and `tokenizer` is None.
        UnsupportedError: its architecture is not supported.
        UsageError: it takes fewer than `max_length` tokens.
    """
    config = ExportConfig(
        pooling=pooling,
        tokens="tokens" in outputs,
        pooler="pooler" in outputs,
        logits="logits" in outputs,
        max_length=max_length,
        tokenizer=tokenizer,
        allow_pooling_mismatch=True,
        allow_untrained_pooler=True,
    )
    checkpoint = load_checkpoint(model, config=config)
    vectors = checkpoint_vectors(checkpoint, texts)
    return {name: vectors[checkpoint.model.sentence_output if name == "sentence" else name] for name in outputs}


def checkpoint_vectors(checkpoint: Checkpoint, texts: Sequence[Text], *, prompt: str = "") -> dict[str, Float32]:
    """Every output of a loaded checkpoint, float32 [n, width] by name, of texts behind `prompt`.

    Of `tokens` it is a sample of each text's rows (`bundle.token_sample`), one text's after the other's: float32 [R, H].
    Only texts of the same number of tokens run together, so no padding can touch a vector; on a busy machine a few batches also wait for
    PyTorch's threads far less often than many single texts.
    """
    encoded = [_encoded(checkpoint, text, prompt) for text in texts]
    lengths = [int(item["input_ids"].shape[1]) for item in encoded]
    rows: dict[int, list[Float32]] = {}
    for length in sorted(set(lengths)):
        places = [place for place, own in enumerate(lengths) if own == length]
        for first in range(0, len(places), REFERENCE_BATCH):
            batch = places[first : first + REFERENCE_BATCH]
            inputs = [torch.cat([encoded[place][name] for place in batch]) for name in checkpoint.inputs]
            outputs = [output.numpy() for output in outputs_of(checkpoint, inputs)]
            rows |= {place: [output[index] for output in outputs] for index, place in enumerate(batch)}
    names = checkpoint.model.output_names
    vectors = {name: [rows[place][index] for place in range(len(texts))] for index, name in enumerate(names)}
    sampled = [item[sampled_positions(len(item))] for item in vectors.pop("tokens", ())]
    return {**({"tokens": np.concatenate(sampled)} if sampled else {}), **{name: np.stack(items) for name, items in vectors.items()}}


def checkpoint_token_ids(checkpoint: Checkpoint, texts: Sequence[Text], *, prompt: str = "") -> tuple[tuple[int, ...], ...]:
    """The tokens that `checkpoint_vectors` gives to the model for each text: special tokens included, cut to the maximum."""
    return tuple(tuple(_encoded(checkpoint, text, prompt)["input_ids"][0].tolist()) for text in texts)


def _encoded(checkpoint: Checkpoint, text: Text, prompt: str) -> BatchEncoding:
    """The model's inputs, int64 [1, S] each. The mask is 2 for the prompt's tokens where they are not pooled."""
    first, *rest = (text,) if isinstance(text, str) else text
    encoded = _tokenized(checkpoint, prompt + first, *rest)
    if prompt and not checkpoint.model.include_prompt:
        encoded["attention_mask"][:, : _prompt_tokens(checkpoint, prompt)] = PROMPT_MASK
    return encoded


def _prompt_tokens(checkpoint: Checkpoint, prompt: str) -> int:
    """How many tokens a prompt has, as sentence-transformers counts: alone, without a special token at its end."""
    ids = _tokenized(checkpoint, prompt)["input_ids"][0].tolist()
    return len(ids) - sum(last in checkpoint.tokenizer.all_special_ids for last in ids[-1:])


def _tokenized(checkpoint: Checkpoint, *parts: str) -> BatchEncoding:
    encoded: BatchEncoding = checkpoint.tokenizer(*parts, truncation=True, max_length=checkpoint.max_length, return_tensors="pt")
    return encoded

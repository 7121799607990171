"""The texts that an export is held to: built in, of ragged lengths, from one token to over the maximum."""

from __future__ import annotations

from importlib.resources import files

from transformers import PreTrainedTokenizerFast

from cls_exporter.errors import CheckpointError


def builtin_texts(name: str) -> tuple[str, ...]:
    """The lines of `texts/<name>.txt`: `parity` or `calibration`. The two have no text in common."""
    content = files("cls_exporter.gate").joinpath("texts", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line for line in content.splitlines() if line.strip())


def parity_texts(tokenizer: PreTrainedTokenizerFast, *, max_length: int) -> tuple[str, ...]:
    """The built-in texts, the empty text, and texts made of them that have about `max_length` tokens, exactly as many, and twice as many.

    None of them is used for calibration.

    Raises:
        CheckpointError: a longer text does not get more tokens.
    """
    texts = builtin_texts("parity")
    return ("", *texts, *(_of_length(tokenizer, texts, tokens) for tokens in (max_length - 1, max_length, max_length + 1, 2 * max_length)))


def _of_length(tokenizer: PreTrainedTokenizerFast, texts: tuple[str, ...], tokens: int) -> str:
    """The shortest run of words of `texts` that has at least `tokens` tokens, special ones included."""
    words = " ".join(texts).split()
    count = _count(tokenizer, words)
    while count < tokens:
        words += words
        fewer, count = count, _count(tokenizer, words)
        if count <= fewer:
            raise CheckpointError(
                f"the tokenizer makes {count} tokens of {len(words)} words and no fewer of half of them, so no text reaches the model's "
                "maximum length; correct tokenizer.json"
            )
    low, high = 1, len(words)
    while low < high:
        middle = (low + high) // 2
        if _count(tokenizer, words[:middle]) < tokens:
            low = middle + 1
        else:
            high = middle
    return " ".join(words[:low])


def _count(tokenizer: PreTrainedTokenizerFast, words: list[str]) -> int:
    # Not the backend's encode(): a truncation that a tokenizer brought along would keep this from ever growing.
    return len(tokenizer(" ".join(words), truncation=False, verbose=False)["input_ids"])

"""What is measured on: bert-base's shape with random weights, all-MiniLM-L6-v2, and texts of a given length in tokens."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.bundle.folder import Bundle

BERT_BASE, MINILM = "bert-base", "MiniLM"
# Sentences of so many words have 25.3 tokens on average.
FEWEST_WORDS, MOST_WORDS = 10, 32
# All that Python's docstrings have, and more.
_EVERY_SENTENCE = 20_000
SMALL_CONFIG: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's bundle of the CLS row in fp32 and fp16, and the checkpoint that the peers load; None where only a bundle was given."""

    name: str
    bundle: Path
    checkpoint: Path | None


@dataclass(frozen=True, kw_only=True)
class Work:
    """Texts of one model: `tokens` each, or about that many where they are short sentences."""

    model: str
    tokens: int
    texts: int

    @property
    def name(self) -> str:
        """As the tables have it."""
        return f"{self.model}, {self.tokens} tokens"


WORKS = (
    Work(model=BERT_BASE, tokens=25, texts=24_000),
    Work(model=BERT_BASE, tokens=512, texts=2_000),
    Work(model=MINILM, tokens=25, texts=32_000),
    Work(model=MINILM, tokens=256, texts=5_000),
)
SMALL_WORKS = (Work(model=BERT_BASE, tokens=25, texts=24), Work(model=MINILM, tokens=60, texts=12))


def prepared(name: str, folder: Path, *, checkpoint: Path | None, bundle: Path | None, small: bool) -> Model:
    """The model's bundle, made below `folder` where it is not there. `checkpoint` and `bundle` are MiniLM's, of which one is enough.

    The other model has random weights, on which speed does not depend, and MiniLM's tokenizer.
    """
    if name == MINILM and bundle is not None:
        return Model(name=name, bundle=bundle, checkpoint=checkpoint)
    source = checkpoint or bundle
    assert source is not None
    if name == BERT_BASE:
        source = _random_checkpoint(folder / name / "checkpoint", tokenizer=source, small=small)
    return Model(name=name, bundle=_exported(source, folder / name / "bundle"), checkpoint=source)


def _random_checkpoint(folder: Path, *, tokenizer: Path, small: bool) -> Path:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    if not folder.exists():
        words: Any = AutoTokenizer.from_pretrained(tokenizer)
        words.model_max_length = 512
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = BertModel(BertConfig(vocab_size=max(len(words), 30522 * (not small)), **(SMALL_CONFIG if small else {})))
        model.save_pretrained(folder)
        words.save_pretrained(folder)
    return folder


def _exported(checkpoint: Path, folder: Path) -> Path:
    from cls_exporter import ExportConfig, export

    if not folder.exists():
        export(str(checkpoint), folder, config=ExportConfig(pooling="cls", precisions=("fp32", "fp16"), allow_pooling_mismatch=True))
    return folder


class Tokens:
    """A bundle's tokenizer, for texts of a given length and for the lengths of texts."""

    def __init__(self, bundle: Path) -> None:
        opened = Bundle.open(bundle)
        self._max_length = opened.manifest.max_length
        self.tokenizer = Tokenizer.from_file(str(opened.companion("tokenizer.json")))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self._max_length)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, special tokens included, after truncation."""
        return [len(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts))]

    def texts(self, tokens: int, count: int) -> list[str]:
        """`count` distinct texts: sentences for short ones, else texts that are cut to the model's maximum or to `tokens`."""
        if tokens <= 32:
            return list(_sentences(count))
        length = min(tokens, self._max_length)
        return [self._cut(words, length) for words in _long(count, words=length)]

    def _cut(self, words: str, length: int) -> str:
        """The words up to where they have `length` tokens, special tokens included."""
        encoding = self.tokenizer.encode(words, add_special_tokens=False)
        room = length - self.tokenizer.num_special_tokens_to_add(False)
        return words[: encoding.offsets[room - 1][1]] if len(encoding.ids) > room else words


def random_lengths(count: int, *, longest_words: int) -> Iterator[str]:
    """`count` texts of 1 to `longest_words` words, the same every time."""
    generator, words = random.Random(0), _words()
    for _ in range(count):
        start = generator.randrange(len(words))
        yield " ".join(words[(start + place) % len(words)] for place in range(generator.randint(1, longest_words)))


def _sentences(count: int) -> Iterator[str]:
    """Short sentences of Python's docstrings; where there are too few, the same ones with their words in another order."""
    found = [text for text in _real_sentences(min(2 * count, _EVERY_SENTENCE)) if FEWEST_WORDS <= len(text.split()) <= MOST_WORDS]
    generator = random.Random(0)
    for index in range(count):
        words = found[index % len(found)].split()
        yield found[index] if index < len(found) else " ".join(generator.sample(words, len(words)))


def _long(count: int, *, words: int) -> Iterator[str]:
    """Texts of `words` words each, which have more tokens than words."""
    generator, stream = random.Random(0), _words()
    for _ in range(count):
        start = generator.randrange(len(stream))
        yield " ".join(stream[(start + place) % len(stream)] for place in range(words))


@functools.lru_cache
def _words() -> list[str]:
    return " ".join(docstring_sentences(2_000)).split()


@functools.lru_cache
def _real_sentences(count: int) -> list[str]:
    return docstring_sentences(count)

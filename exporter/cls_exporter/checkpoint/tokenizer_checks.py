"""What a tokenizer must not be: one whose tokens no bundle can give, or that makes nothing of a text."""

from __future__ import annotations

from itertools import chain

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from cls_exporter.checkpoint.tokenizer_probes import PROBES, is_mark, words_of
from cls_exporter.checkpoint.weights import shown_name
from cls_exporter.errors import CheckpointError, UnsupportedError, one_line, shown
from cls_runtime.encoding.tokenizer_form import check_form, check_model

_BEGINNINGS = ("a", "two words", "")


def readable(serialized: bytes, name: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json without truncation and padding, refused now if every reader of the bundle would refuse it.

    Raises:
        CheckpointError: it says what no tokenizer of a bundle says.
    """
    try:
        longest_piece = check_form(serialized)
        tokenizer = Tokenizer.from_buffer(serialized)
        check_model(tokenizer, longest_piece)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except ValueError as error:
        raise CheckpointError(
            f"the tokenizer of {name} cannot be used in a bundle: {one_line(error)}; see docs/reference/bundle.md"
        ) from None
    return tokenizer


def check_settings(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Refuses what tokenizer_config.json asks for and no tokenizer.json can say, so that other readers of the bundle would not do it.

    Raises:
        UnsupportedError: it asks for it.
    """
    if tokenizer.split_special_tokens:
        raise UnsupportedError(
            f"the tokenizer of {name} has split_special_tokens true: a text that holds {shown_name(tokenizer.sep_token or '[SEP]')} gets "
            "tokens that tokenizer.json cannot express; supported is false; remove it from tokenizer_config.json"
        )
    if tokenizer.truncation_side != "right":
        raise UnsupportedError(
            f"the tokenizer of {name} has truncation_side {shown(tokenizer.truncation_side)}: it cuts off the beginning of "
            "a long text; supported is 'right', as for every reader of a bundle; change truncation_side in tokenizer_config.json, or the "
            "direction of truncation in tokenizer.json"
        )


def check_first_token(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Row 0 is the CLS token's.

    Raises:
        CheckpointError: texts do not begin with one fixed special token.
    """
    firsts = {tuple(tokenizer(text)["input_ids"][:1]) for text in _BEGINNINGS}
    first = next(iter(firsts))
    expected = tokenizer.cls_token_id
    if len(firsts) == 1 and first and (first[0] == expected if expected is not None else first[0] in tokenizer.all_special_ids):
        return
    cls = shown_name(tokenizer.cls_token or "a CLS token")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"])
    raise CheckpointError(
        f"the tokenizer of {name} does not put {cls} first: 'a' becomes {shown(tokens)}; row 0 would be a word; "
        "expected a post-processor in tokenizer.json that adds the special tokens"
    )


def check_words(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Texts become tokens that tell them apart: words of the vocabulary, not special tokens alone.

    Raises:
        CheckpointError: there is no such word, or no text becomes one.
    """
    backend = tokenizer.backend_tokenizer
    unknown = getattr(backend.model, "unk_token", None)
    if type(backend.model).__name__ in ("WordPiece", "WordLevel") and backend.model.token_to_id(unknown) is None:
        raise CheckpointError(
            f"the vocabulary of {name} has no {shown(unknown)}, the token for unknown words; it is incomplete or belongs to another "
            "tokenizer; fetch vocab.txt, vocab.json or tokenizer.json again"
        )
    special = {*tokenizer.all_special_tokens, unknown}
    special |= {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    vocabulary = backend.get_vocab(with_added_tokens=False)
    words = {number for token, number in vocabulary.items() if token not in special and not is_mark(token)}
    if not words:
        raise CheckpointError(
            f"the tokenizer of {name} has {len(vocabulary)} tokens in its vocabulary and no word among them, so all texts would become "
            "one; its vocabulary is missing or empty; fetch vocab.txt, vocab.json and merges.txt, *.model or tokenizer.json again"
        )
    encodings = backend.encode_batch(PROBES)
    if all(words.isdisjoint(encoding.ids) for encoding in chain(encodings, map(backend.encode, words_of(vocabulary)))):
        raise CheckpointError(
            f"the tokenizer of {name} makes no word of its vocabulary of any text: {PROBES[0]!r} becomes {shown(encodings[0].tokens)}; all "
            "texts would become one; correct the normalizer in tokenizer.json, or fetch the vocabulary that belongs to it"
        )


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, *, rows: int, name: str) -> None:
    """Holds the tokenizer against the embedding table's `rows`.

    Raises:
        CheckpointError: a token's id has no row.
    """
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", 0))
    if largest >= rows:
        raise CheckpointError(
            f"the tokenizer of {name} has the token {shown(token)} with id {largest}, the embedding table has {rows} rows; they are of "
            "different models, or the table was not resized after tokens were added"
        )

"""Reads the files that a bundle's tokenizer is in. What the tokenizers library answers with a panic becomes an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cls_runtime.bundle.files import read_regular
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.typed_json import parsed, shown
from cls_runtime.encoding.tokenizer_form import MAX_ID, check_form, check_model
from cls_runtime.errors import BundleError, is_refusal, is_shortage

MAX_TOKENIZER_BYTES = 2**27
MAX_CONFIG_BYTES = 2**24


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`.

    Raises:
        BundleError: it cannot be read, or says what no tokenizer of a bundle says.
    """
    try:
        data = read_regular(path, max_bytes=MAX_TOKENIZER_BYTES)
        longest_piece = check_form(data)
        tokenizer = Tokenizer.from_buffer(data)
        check_model(tokenizer, longest_piece)
    except BundleError:
        raise
    except BaseException as error:
        if not is_refusal(error):
            raise
        raise BundleError(
            f"{path} is not a tokenizer of a bundle ({one_line(error)}); the bundle is damaged, copy or export it again"
        ) from None
    return tokenizer


def vocabulary_size(bundle: Bundle) -> int | None:
    """The rows of the model's table of tokens, as config.json has them; None where it does not say."""
    if not any(file.path == "config.json" for file in bundle.manifest.files):
        return None
    size = read_object(bundle.companion("config.json")).get("vocab_size")
    return size if isinstance(size, int) and 0 < size <= MAX_ID else None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file of a bundle that holds an object.

    Raises:
        BundleError: it cannot be read, or holds something else.
    """
    try:
        value = parsed(read_regular(path, max_bytes=MAX_CONFIG_BYTES).decode("utf-8"))
    except (ValueError, OSError) as error:
        if is_shortage(error):
            raise
        raise BundleError(f"{path} is not valid JSON ({error}); the bundle is damaged, copy or export it again") from None
    if not isinstance(value, dict):
        raise BundleError(f"{path} holds a {type(value).__name__}, expected an object; the bundle is damaged, export it again")
    return value


def pad_id(tokenizer: Tokenizer, config: dict[str, Any], bundle: Bundle) -> int:
    """The id of the padding token that `config`, the content of tokenizer_config.json, names.

    Raises:
        BundleError: it names none that the tokenizer has.
    """
    token = config.get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    found = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if found is None:
        raise BundleError(
            f"tokenizer_config.json of bundle {bundle.folder} has pad_token {shown(token)}, expected a token of tokenizer.json"
        )
    return int(found)


def one_line(error: BaseException) -> str:
    """What the library says; it may quote from the file, at any length."""
    return " ".join(str(error).split())[:300]

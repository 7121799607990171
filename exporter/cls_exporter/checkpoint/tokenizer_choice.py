"""Which tokenizer is a checkpoint's where its tokenizer.json says one thing and transformers makes another of the folder.

tokenizers, fastembed, text-embeddings-inference and transformers.js take tokenizer.json as it stands. transformers 5 builds the tokenizer
of a class that it knows anew from the vocabulary, and transformers 4 sets lower case, accents and a first blank as tokenizer_config.json
has them. docs/adr/0009-which-tokenizer.md says why none of the two is taken in silence.
"""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.tokenizer_checks import readable
from cls_exporter.checkpoint.tokenizer_files import FILE, read_tokenizer_json
from cls_exporter.checkpoint.tokenizer_probes import first_difference
from cls_exporter.errors import CheckpointError
from cls_runtime.bundle.manifest import TokenizerChoice


def chosen_tokenizer(made: PreTrainedTokenizerFast, folder: CheckpointFolder, choice: TokenizerChoice | None) -> PreTrainedTokenizerFast:
    """The tokenizer that the bundle gets: `made`, which is transformers' own, or that of the folder's tokenizer.json.

    Raises:
        CheckpointError: the two give a text other tokens and `choice` is None, tokenizer.json says what no bundle may, or it is chosen and
            not there.
    """
    if choice == "transformers":
        return made
    if not folder.has(FILE):
        if choice == "file":
            raise CheckpointError(
                f"--tokenizer file: {folder.name} has no {FILE}; leave the option out; transformers makes one from the other files"
            )
        return made
    written = _of_file(folder, made)
    if choice == "file":
        return with_backend(written, made)
    # transformers 5 has a post-processor of its own where the file has none; what is wrong then is that there is no CLS token.
    with_types = "token_type_ids" in made.model_input_names and written.post_processor is not None
    difference = first_difference(written, made.backend_tokenizer, with_types=with_types)
    if difference is None:
        return made
    words = difference.in_words(FILE, f"transformers {transformers.__version__} ({type(made).__name__})")
    raise CheckpointError(
        f"{folder.name} has two tokenizers: {words}; their vectors differ, and nothing says which the model was trained with; export it "
        "with --tokenizer file or --tokenizer transformers"
    )


def with_backend(backend: Tokenizer, like: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of no class of its own, with the special tokens, inputs and limits of `like`."""
    special = {name: str(token) for name, token in like.special_tokens_map.items() if isinstance(token, str)}
    fast: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = fast(
        tokenizer_object=backend,
        model_max_length=like.model_max_length,
        padding_side=like.padding_side,
        truncation_side=like.truncation_side,
        split_special_tokens=like.split_special_tokens,
        model_input_names=list(like.model_input_names),
        **special,
    )
    if backend.pre_tokenizer is not None:
        # transformers 4 writes its own add_prefix_space over it.
        tokenizer.backend_tokenizer.pre_tokenizer = backend.pre_tokenizer
    return tokenizer


def _of_file(folder: CheckpointFolder, made: PreTrainedTokenizerFast) -> Tokenizer:
    """tokenizer.json as it stands, and the tokens that the folder's other files add to it."""
    backend = readable(read_tokenizer_json(folder), folder.name)
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    added = sorted(made.backend_tokenizer.get_added_tokens_decoder().items())
    backend.add_tokens([token for _, token in added if token.content not in known])
    return backend

"""What goes before a text: the prompts that a model was trained with, chosen by name as sentence-transformers 6 chooses them.

https://github.com/UKPLab/sentence-transformers/blob/v6.2.0/sentence_transformers/base/model.py (`_resolve_prompt`)
"""

from __future__ import annotations

from collections.abc import Mapping

from cls_runtime.bundle.manifest import Manifest
from cls_runtime.encoding.texts import Text
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.errors import UsageError
from cls_runtime.suggestions import did_you_mean

# What `encode_query` and `encode_document` ask for. sentence-transformers knows both of every model, as empty where the model does not say,
# so that its `encode_document` never comes to a prompt that is called `passage`.
QUERY, DOCUMENT = "query", "document"
_OF_EVERY_MODEL = {QUERY: "", DOCUMENT: ""}


def known_prompts(manifest: Manifest) -> Mapping[str, str]:
    """The texts of all prompts by name."""
    return _OF_EVERY_MODEL | dict(manifest.prompts)


def chosen_prompt(manifest: Manifest, *, prompt: str | None, prompt_name: str | None) -> str:
    """The text that goes before each text: `prompt`, or else the one of that name, or else the default prompt.

    Raises:
        UsageError: there is no prompt of that name.
    """
    if prompt is not None:
        return prompt
    if prompt_name is None:
        return manifest.default_prompt
    prompts = known_prompts(manifest)
    if prompt_name not in prompts:
        known = f"{', '.join(prompts)}{did_you_mean(prompt_name, prompts)}"
        raise UsageError(f"prompt_name is {prompt_name!r}, this bundle has {known}; pass prompt= for a text of your own")
    return prompts[prompt_name]


def with_prompt(prompt: str, text: Text) -> Text:
    """The text behind the prompt; of a pair, the first text.

    >>> with_prompt("query: ", "cats"), with_prompt("query: ", ("cats", "dogs"))
    ('query: cats', ('query: cats', 'dogs'))
    """
    return prompt + text if isinstance(text, str) else (prompt + text[0], text[1])


def prompt_length(tokenizer: TextTokenizer, prompt: str) -> int:
    """How many tokens a prompt has in front of a text, as sentence-transformers counts them: alone, and without the last if special."""
    ids = tokenizer.tokenize([prompt]).ids.tolist()
    return len(ids) - (bool(ids) and ids[-1] in tokenizer.special_ids)

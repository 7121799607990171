"""A bundle as a module of sentence-transformers 5 and 6: its way to ONNX where `backend="onnx"` cannot be installed.

Needs torch and sentence-transformers, and of cls-export only an engine: `pip install cls-export[cpu]`. The module derives from none of
sentence-transformers' classes, whose place changes with its versions; it takes any `torch.nn.Module` with these methods.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cls_runtime import Bundle, BundleError, Encoder, UsageError
from cls_runtime.bundle.folder import require_fingerprint
from cls_runtime.bundle.manifest import MANIFEST_NAME, Output
from cls_runtime.bundle.named_files import files_of
from cls_runtime.bundle.places import find_bundle
from cls_runtime.encoding.inputs import iterable_of_texts
from cls_runtime.encoding.texts import Text, checked_text
from cls_runtime.encoding.tokenizer_files import read_object
from cls_runtime.encoding.vector_options import VectorOptions
from cls_runtime.integrations.sentence_transformers.arguments import check_length

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CONFIG = "cls_encoder_module.json"


class ClsEncoderModule(torch.nn.Module):
    """Text to sentence embeddings: tokenizer, encoder, pooling and normalization in one module.

        >>> from sentence_transformers import SentenceTransformer  # doctest: +SKIP
        >>> model = SentenceTransformer(modules=[ClsEncoderModule("models/all-MiniLM-L6-v2")])  # doctest: +SKIP
        >>> model.encode(["a text", "another"]).shape  # doctest: +SKIP
        (2, 384)

    Prompts, similarity, `truncate_dim`, saving and loading work as with any other model; `sentence_transformer` makes one that has those of
    the bundle. There is nothing to train in it, and it computes where its engine runs, whatever `device` says.

    Args:
        bundle: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        output: `sentence`, or `pooler` or `logits` where the bundle has them.
        normalize: divide each vector by its L2 norm; None as the model was trained.

    Raises:
        BundleError, EngineError, IntegrityError, MissingExtraError: as `Encoder.load`.
        UsageError: the bundle has no such output.
    """

    __module__ = "cls_runtime.integrations.sentence_transformers"  # by which saved models name it

    def __init__(self, bundle: str | os.PathLike[str] | Encoder, *, output: Output = "sentence", normalize: bool | None = None) -> None:
        super().__init__()
        self.encoder = bundle if isinstance(bundle, Encoder) else Encoder.load(bundle)
        if output == "tokens":
            raise UsageError("output is 'tokens', expected one with a row per text: sentence, pooler, logits")
        # An output that is not there is told now, not at the first text.
        form = VectorOptions(output=output, normalize=normalize).of(self.encoder.manifest)
        self.output: Output = output
        self.normalize = form.normalize or form.normalize_whole
        # All of them, whatever the bundle says: sentence-transformers cuts what leaves the last module.
        self._dimensions = form.width if self.is_sentence else None

    @property
    def is_sentence(self) -> bool:
        """Whether the vectors are the sentence's, and not the pooler's or logits."""
        manifest = self.encoder.manifest
        return manifest.recorded(self.output) == manifest.sentence_output

    @property
    def max_seq_length(self) -> int:
        """The longest text in tokens, special tokens included. It can be set to what it is, and to nothing else."""
        return self.encoder.manifest.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        check_length("max_seq_length", value, own=self.max_seq_length)

    def get_embedding_dimension(self) -> int:
        """The vectors' width, as sentence-transformers 6 asks for it."""
        return self.encoder.manifest.width(self.output)

    def get_sentence_embedding_dimension(self) -> int:
        """The vectors' width, as sentence-transformers 5 asks for it."""
        return self.get_embedding_dimension()

    def preprocess(self, inputs: Sequence[Text], prompt: str | None = None, task: str | None = None) -> dict[str, Any]:  # noqa: ARG002
        """The texts as they are, and the prompt apart: the encoder tokenizes them itself, sorted by length, and may leave the prompt out.

        `task` is `query` or `document`, which chose the prompt already; it says more to models of several parts only.
        """
        return {"texts": [checked_text(text, index) for index, text in enumerate(iterable_of_texts(inputs))], "prompt": prompt or ""}

    def tokenize(self, texts: Sequence[Text]) -> dict[str, Any]:
        """What older releases of sentence-transformers 5 call instead of `preprocess`, with the prompt in the texts.

        Raises:
            UsageError: the model leaves the prompt out of its vectors, and so must know it.
        """
        if self.encoder.manifest.leaves_prompt_out:
            raise UsageError(
                "this model leaves a prompt out of its vectors, and tokenize is not told which it is; upgrade sentence-transformers"
            )
        return self.preprocess(texts)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Adds `sentence_embedding`, a float32 tensor [B, width] on the CPU."""
        rows = self.encoder.encode(
            features["texts"], output=self.output, normalize=self.normalize, prompt=features.get("prompt", ""), dimensions=self._dimensions
        )
        return {**features, "sentence_embedding": torch.from_numpy(rows)}

    def save(self, output_path: str, safe_serialization: bool = True) -> None:  # noqa: ARG002 - a bundle has no weights to choose a format for
        """Copies the bundle into the model's folder, so that the folder is complete; what is loaded from it computes the same variant. Of
        one that is on the hub the rest is fetched.

        Raises:
            BundleError: another bundle is at its path by now.
        """
        target, manifest = Path(output_path), self.encoder.manifest

        def copy(bundle: Bundle) -> None:
            require_fingerprint(bundle, manifest.fingerprint)
            for path in (bundle.folder / MANIFEST_NAME, *map(bundle.locate, bundle.files())):
                copied = target / path.relative_to(bundle.folder)
                if not (copied.exists() and copied.samefile(path)):  # a model that is saved where it is
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copied)

        place = find_bundle(self.encoder.bundle.name)
        Bundle.read(place.folder, copy, follow_links=self.encoder.bundle.follow_links, fetched=place.fetch(files_of))
        settings = {"variant": self.encoder.info.variant, "output": self.output, "normalize": self.normalize}
        (target / _CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **_of_other_modules: Any) -> ClsEncoderModule:
        """Loads what `save` wrote. sentence-transformers passes every module the options of its own ones; they do not apply here.

        Raises:
            BundleError: the folder is not local, or does not hold what `save` writes.
        """
        folder = Path(model_name_or_path) / subfolder
        Bundle.open(folder)
        try:
            settings = read_object(folder / _CONFIG)
            variant, output, normalize = (settings[name] for name in ("variant", "output", "normalize"))
        except (BundleError, KeyError):
            raise BundleError(f"{folder / _CONFIG} is missing or damaged; save the model again") from None
        return cls(Encoder.load(folder, variant=variant), output=output, normalize=normalize)


def sentence_transformer(
    bundle: str | os.PathLike[str] | Encoder, *, output: Output = "sentence", normalize: bool | None = None
) -> SentenceTransformer:
    """A SentenceTransformer of the bundle, used as its source is: with its prompts, its default prompt, its similarity and its size.

        >>> model = sentence_transformer("models/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model.similarity(model.encode_query(["cats?"]), model.encode_document(["a cat", "a dog"])).shape  # doctest: +SKIP
        torch.Size([1, 2])

    Arguments and errors are those of `ClsEncoderModule`.
    """
    from sentence_transformers import SentenceTransformer

    module = ClsEncoderModule(bundle, output=output, normalize=normalize)
    manifest = module.encoder.manifest
    return SentenceTransformer(
        modules=[module],
        device="cpu",
        prompts=dict(manifest.prompts),
        default_prompt_name=manifest.default_prompt_name,
        similarity_fn_name=manifest.similarity_fn_name,
        truncate_dim=manifest.truncate_dim if module.is_sentence else None,
    )

"""A bundle as a module of sentence-transformers 5 and 6: its way to ONNX where `backend="onnx"` cannot be installed.

Needs torch and sentence-transformers, and of cls-export only an engine: `pip install cls-export[cpu]`. sentence-transformers itself is not
imported, since the place of its base classes changes with its versions; it takes any `torch.nn.Module` with these methods.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cls_runtime import Bundle, BundleError, Encoder
from cls_runtime.bundle.folder import require_fingerprint
from cls_runtime.bundle.manifest import MANIFEST_NAME, Output
from cls_runtime.bundle.named_files import files_of
from cls_runtime.bundle.places import find_bundle
from cls_runtime.encoding.inputs import iterable_of_texts
from cls_runtime.encoding.tokenizer import Text, checked_text
from cls_runtime.encoding.tokenizer_files import read_object

_CONFIG = "cls_encoder_module.json"


class ClsEncoderModule(torch.nn.Module):
    """Text to sentence embeddings: tokenizer, encoder, pooling and normalization in one module.

        >>> from sentence_transformers import SentenceTransformer  # doctest: +SKIP
        >>> model = SentenceTransformer(modules=[ClsEncoderModule("models/all-MiniLM-L6-v2")])  # doctest: +SKIP
        >>> model.encode(["a text", "another"]).shape  # doctest: +SKIP
        (2, 384)

    Prompts, similarity, `truncate_dim`, saving and loading work as with any other model. There is nothing to train in it, and it computes
    where its engine runs, whatever `device` says.

    Args:
        bundle: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        output: `cls`, or `pooler` or `logits` where the bundle has them.
        normalize: divide each vector by its L2 norm; None for what the bundle's own sentence-transformers files say.

    Raises:
        BundleError, EngineError, IntegrityError, MissingExtraError: as `Encoder.load`.
        UsageError: the bundle has no such output.
    """

    def __init__(self, bundle: str | os.PathLike[str] | Encoder, *, output: Output = "cls", normalize: bool | None = None) -> None:
        super().__init__()
        self.encoder = bundle if isinstance(bundle, Encoder) else Encoder.load(bundle)
        self.output: Output = output
        self.normalize = self.encoder.manifest.source_pooling.normalize if normalize is None else normalize
        self.encoder.encode([], output=output)  # an output that is not there is told now, not at the first text

    @property
    def max_seq_length(self) -> int:
        """The longest text in tokens, special tokens included."""
        return self.encoder.manifest.max_length

    def get_embedding_dimension(self) -> int:
        """The vectors' width, as sentence-transformers 6 asks for it."""
        return self.encoder.manifest.width(self.output)

    def get_sentence_embedding_dimension(self) -> int:
        """The vectors' width, as sentence-transformers 5 asks for it."""
        return self.get_embedding_dimension()

    def preprocess(self, inputs: Sequence[Text], prompt: str | None = None) -> dict[str, list[Text]]:
        """The texts as they are, behind `prompt`: the encoder tokenizes them itself, sorted by length."""
        texts = [checked_text(text, index) for index, text in enumerate(iterable_of_texts(inputs))]
        return {"texts": [_behind(prompt, text) for text in texts] if prompt else texts}

    def tokenize(self, texts: Sequence[Text]) -> dict[str, list[Text]]:
        """What older releases of sentence-transformers 5 call instead of `preprocess`."""
        return self.preprocess(texts)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Adds `sentence_embedding`, a float32 tensor [B, width] on the CPU."""
        rows = self.encoder.encode(features["texts"], output=self.output, normalize=self.normalize)
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


def _behind(prompt: str, text: Text) -> Text:
    return prompt + text if isinstance(text, str) else (prompt + text[0], text[1])

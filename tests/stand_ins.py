"""What the examples of pages and docstrings find in their folder: a small model under the name of a real one, bundles of it, and texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

MODEL = "BAAI/bge-small-en-v1.5"
BUNDLE = "models/bge-small-en-v1.5"
UPGRADE = "models/upgrade"
QUERY_PROMPT = "Represent this sentence for searching relevant passages: "
TEXTS = ("A cat sleeps on the roof.", "A kitten naps on top of the house.", "The bank raised its rates.", "Rain is expected tomorrow.")


def make_stand_ins(folder: Path) -> None:
    """Fills `folder`; takes half a minute, most of it the export in int8."""
    import pyarrow as pa
    from pyarrow import parquet

    from cls_exporter import ExportConfig, export

    checkpoint = make_model(folder / MODEL)
    export(str(checkpoint), folder / BUNDLE, config=ExportConfig(precisions=("fp32", "int8")))
    shutil.copytree(folder / BUNDLE, folder / UPGRADE)
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps({'id': place, 'text': text})}\n" for place, text in enumerate(TEXTS)))
    (folder / "corpus.csv").write_text("id,text\n" + "".join(f'{place},"{text}"\n' for place, text in enumerate(TEXTS)))
    parquet.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), folder / "corpus.parquet")


def make_model(folder: Path) -> Path:
    """A checkpoint as bge-small-en-v1.5 is on the hub: its CLS row at unit length, a prompt for queries; but 128 tokens."""
    from checkpoints import add_sentence_modules, edit_json, make_checkpoint

    make_checkpoint(folder, "bert", changes={"max_position_embeddings": 128})
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    add_sentence_modules(folder, pooling=pooling, modules=[("Normalize", "2_Normalize")])
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": True})
    prompts = {"prompts": {"query": QUERY_PROMPT, "document": ""}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    edit_json(folder / "config_sentence_transformers.json", prompts)
    return folder

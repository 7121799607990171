"""Hub id or folder -> `Checkpoint`: the model in PyTorch, its tokenizer, its limits and what was found about it."""

from cls_exporter.checkpoint.load import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.model import ClsModel

__all__ = ["Checkpoint", "ClsModel", "load_checkpoint"]

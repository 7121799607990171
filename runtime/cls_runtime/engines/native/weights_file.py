"""`native/weights.safetensors`: writes a `NativeModel`, and maps one into memory, checked before any kernel reads it.

The file is a safetensors file (`tensors.py`). Its metadata has the format's name and version, and the model without its arrays as JSON
(`description.py`). Processes that map the same file share its memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cls_runtime.bundle.typed_json import parsed, shown
from cls_runtime.engines.native.description import described, model_of
from cls_runtime.engines.native.sizes import check_sizes
from cls_runtime.engines.native.tensors import map_tensors, write_tensors
from cls_runtime.engines.native.weights import NativeModel
from cls_runtime.errors import BundleError, EngineError, is_shortage

FORMAT = "cls-export native weights"
VERSION = "1"


def write(model: NativeModel, path: Path) -> None:
    """Writes the model into a folder that is there; the same model gives the same bytes. What `read` would refuse is refused here.

    Raises:
        ValueError: an array has another type than its field, or the model's sizes do not fit together.
        EngineError: this machine is big-endian.
        OSError: nothing can be written there.
    """
    _check_byte_order()
    description, arrays = described(model)
    text = json.dumps(description, separators=(",", ":"), sort_keys=True, allow_nan=False)
    check_sizes(model_of(parsed(text), arrays)[0])
    write_tensors(path, arrays, {"format": FORMAT, "version": VERSION, "model": text})


def read(path: Path) -> NativeModel:
    """The model of a file. Its arrays are read only and lie in the mapped file, which they keep mapped.

    Raises:
        BundleError: it is no such file, of another version, damaged, or its sizes do not fit together.
        EngineError: this machine is big-endian.
    """
    _check_byte_order()
    try:
        arrays, metadata = map_tensors(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {shown(metadata.get('format'))}, expected {FORMAT!r}")
        if (version := metadata.get("version")) != VERSION:
            raise BundleError(
                f"{path} has native weights of version {shown(version)}, this cls-export reads {VERSION}; "
                "install the version that exported the bundle, or export it again"
            )
        model, used = model_of(parsed(metadata.get("model", "")), arrays)
        check_sizes(model)
        if unused := sorted(set(arrays) - used):
            raise ValueError(f"the array {shown(unused[0])} belongs to nothing in the model")
    except (OSError, ValueError) as error:
        if is_shortage(error):
            raise
        raise BundleError(f"{path} is not a file of native weights ({error}); copy or export the bundle again") from None
    return model


def _check_byte_order() -> None:
    if sys.byteorder != "little":
        raise EngineError("native weights are little-endian, and this machine is big-endian; use engine='onnxruntime'")

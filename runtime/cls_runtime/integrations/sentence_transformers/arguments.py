"""The arguments of sentence-transformers' classes: what each of them means for an Encoder, and a clear refusal of what it cannot do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from cls_runtime.errors import UsageError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def renamed(**names: str) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Takes an argument by the name that it had in older releases of sentence-transformers too.

    >>> @renamed(sentences="inputs")
    ... def count(inputs: list[str]) -> int:
    ...     return len(inputs)
    >>> count(sentences=["a", "b"])
    2
    """

    def decorated(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            for old, new in names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise UsageError(f"{old} is the older name of {new}, and both are given; leave {old} out")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorated


def check_batch_size(batch_size: int) -> None:
    """An Encoder makes batches of as many tokens as suit its engine, so the number decides nothing; a wrong one is an error all the same.

    Raises:
        UsageError: it is not a number of texts.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size is {batch_size!r}, expected a whole number of at least 1")


def check_in_process(*, device: Any, own_device: str, pool: Any) -> None:
    """Refuses what would compute elsewhere than where the model was loaded.

    Raises:
        UsageError: several processes, or another device.
    """
    if pool is not None or isinstance(device, (list, tuple)):
        what = "a pool" if pool is not None else f"device {device!r}"
        raise UsageError(f"{what} asks for several processes; one Encoder uses all CPU cores, leave it out")
    check_device(device, own_device=own_device)


def check_device(device: Any, *, own_device: str) -> None:
    """Refuses a device other than the one that the model computes on; None is that one.

    Raises:
        UsageError: it is another device.
    """
    if device is not None and str(device) not in (own_device, own_device.partition(":")[0]):
        raise UsageError(f"device is {str(device)!r}, this model computes on {own_device!r}; load it again with device={str(device)!r}")


class NotOfferedError(UsageError, AttributeError):
    """Something that a model of PyTorch has, and a bundle has not; `hasattr` sees that it is not there."""


_INSTEAD = {
    "tokenizer": "use tokenize, or transformers.AutoTokenizer.from_pretrained on the bundle's folder",
    "processor": "use tokenize, or transformers.AutoTokenizer.from_pretrained on the bundle's folder",
    "start_multi_process_pool": "one Encoder uses all CPU cores; call encode",
    "encode_multi_process": "one Encoder uses all CPU cores; call encode",
    **dict.fromkeys(("save", "save_pretrained"), "copy the bundle's folder"),
    **dict.fromkeys(("push_to_hub", "save_to_hub"), "upload the bundle's folder, for example with huggingface-cli upload"),
    **dict.fromkeys(("half", "bfloat16", "float"), 'choose a precision with model_kwargs={"file_name": ...}, or give an Encoder'),
    **dict.fromkeys(("cuda", "mps"), "load the model with the device"),
}


def not_offered(kind: str, name: str) -> AttributeError:
    """The error for an attribute that a class of this package does not have."""
    if name.startswith("_"):
        return AttributeError(f"{kind!r} object has no attribute {name!r}")
    instead = _INSTEAD.get(name, "use the class of sentence-transformers for it, on the checkpoint")
    return NotOfferedError(f"{kind} of cls_runtime has no {name!r}, since it computes without PyTorch; {instead}")

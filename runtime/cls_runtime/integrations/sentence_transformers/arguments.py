"""The arguments of sentence-transformers' classes: what each of them means for an Encoder, and a clear refusal of what it cannot do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np

from cls_runtime import option_checks
from cls_runtime.encoding.inputs import iterable_of_texts
from cls_runtime.encoding.texts import Text
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


def iterable_of_inputs(inputs: Any) -> Iterable[Text]:
    """Texts or pairs that are given in any ordered collection; an array [n, 2] of str holds n pairs.

    Raises:
        TypeError: it holds something else, such as the keys of a dict or the columns of a table.
    """
    listed = inputs.tolist() if isinstance(inputs, np.ndarray) and inputs.ndim else inputs
    return iterable_of_texts(listed)


def given_prompts(prompts: Mapping[str, str | None] | None) -> dict[str, str]:
    """The prompts of a constructor; None in place of a text leaves that prompt as the bundle has it.

    Raises:
        UsageError: these are no texts by name.
    """
    try:
        given = {name: text for name, text in dict(prompts or {}).items() if text is not None}
    except (TypeError, ValueError):
        raise UsageError(f"prompts is a {type(prompts).__name__}, expected a dict of texts by name") from None
    for name, text in given.items():
        if not isinstance(text, str):
            raise UsageError(f"prompts has {text!r} as {name!r}, expected a str")
    return given


def check_count(name: str, value: Any, *, or_none: bool = False) -> None:
    """Refuses what is no whole number of at least 1; NumPy's are taken too.

    Raises:
        UsageError: it is none.
    """
    option_checks.check_count(name, int(value) if isinstance(value, np.integer) else value, or_none=or_none)


def check_length(name: str, value: int | None, *, own: int) -> None:
    """Refuses a length other than the one at which the bundle cuts texts; None is that one.

    Raises:
        UsageError: it is another one.
    """
    if value is not None and value != own:
        raise UsageError(
            f"{name} is {value!r}, this bundle cuts texts at {own} tokens; export it again with --max-length, or leave {name} out"
        )


def check_call(*, batch_size: int, device: Any, own_device: str, pool: Any, processing_kwargs: Any) -> None:
    """Refuses what would compute elsewhere or otherwise than as the model was loaded.

    An Encoder makes batches of as many tokens as suit its engine, so `batch_size` decides nothing; a wrong one is an error all the same.

    Raises:
        UsageError: no number of texts, several processes, another device, or another tokenizer.
    """
    check_count("batch_size", batch_size)
    if pool is not None or isinstance(device, (list, tuple)):
        what = "a pool" if pool is not None else f"device {device!r}"
        raise UsageError(f"{what} asks for several processes; one Encoder uses all CPU cores, leave it out")
    check_device(device, own_device=own_device)
    if processing_kwargs is not None:
        raise UsageError("processing_kwargs change the tokenizer, and a bundle's is fixed; leave them out")


def check_device(device: Any, *, own_device: str) -> None:
    """Refuses a device other than the one that the model computes on; None is that one.

    Raises:
        UsageError: it is another device.
    """
    own_kind = own_device.partition(":")[0]
    known = (own_device, own_kind, "cpu:0" if own_kind == "cpu" else own_kind)
    if device is not None and str(device) not in known:
        raise UsageError(f"device is {str(device)!r}, this model computes on {own_device!r}; load it again with device={str(device)!r}")


class NotOfferedError(UsageError, AttributeError):
    """Something that a model of PyTorch has, and a bundle has not; `hasattr` sees that it is not there."""


_INSTEAD = {
    "tokenizer": "use tokenize, or transformers.AutoTokenizer.from_pretrained on the bundle's folder",
    "processor": "use tokenize, or transformers.AutoTokenizer.from_pretrained on the bundle's folder",
    "start_multi_process_pool": "one Encoder uses all CPU cores; call encode",
    "encode_multi_process": "one Encoder uses all CPU cores; call encode",
    **dict.fromkeys(("save", "save_pretrained"), "copy the bundle's folder"),
    **dict.fromkeys(("push_to_hub", "save_to_hub"), "upload the bundle's folder, for example with `hf upload`"),
    "stop_multi_process_pool": "there is no pool to stop",
    **dict.fromkeys(("_first_module", "_last_module"), "a bundle has no modules"),
    **dict.fromkeys(("half", "bfloat16", "float", "double"), 'choose a precision with model_kwargs={"file_name": ...}, or give an Encoder'),
    **dict.fromkeys(("cuda", "mps", "_target_device"), "load the model with the device"),
}


def not_offered(kind: str, name: str) -> AttributeError:
    """The error for an attribute that a class of this package does not have."""
    if name.startswith("_") and name not in _INSTEAD:
        return AttributeError(f"{kind!r} object has no attribute {name!r}")
    instead = _INSTEAD.get(name, "use the class of sentence-transformers for it, on the checkpoint")
    return NotOfferedError(f"{kind} of cls_runtime has no {name!r}, since it computes without PyTorch; {instead}")


def check_settable(model: object, name: str) -> None:
    """Refuses to set an attribute of a model that would have no effect. A program's own attributes are its own.

    Raises:
        NotOfferedError: a bundle does not have it, or has one that is fixed.
    """
    kind = type(model)
    if name in _INSTEAD:
        raise not_offered(kind.__name__, name)
    own = getattr(kind, name, None)
    if isinstance(own, property) and own.fset is None:
        raise NotOfferedError(f"{name} of {kind.__name__} cannot be set, since a loaded bundle is fixed; load the one that you want")

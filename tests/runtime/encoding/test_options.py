"""`EncoderOptions`: the options of `Encoder.load`, and what makes no sense of them."""

import dataclasses
import inspect

import pytest

from cls_runtime import Encoder, EncoderOptions, UsageError
from cls_runtime.bundle.manifest import read_manifest


def test_they_are_those_of_load_with_the_same_defaults():
    """All but `revision`, which is part of the bundle's name, and `shares_threads_of`, which is no value that could be sent."""
    parameters = inspect.signature(Encoder.load).parameters
    of_load = {name: item.default for name, item in parameters.items() if item.kind is inspect.Parameter.KEYWORD_ONLY}
    assert of_load == {
        "revision": None,
        "shares_threads_of": None,
        **{field.name: field.default for field in dataclasses.fields(EncoderOptions)},
    }
    assert [name for name in parameters if name not in of_load] == ["path"]


def test_every_option_of_load_is_handed_on(bundle):
    """Each with another value than its default, as the encoder has it and as another process would get it.

    All but `device`, which goes with an engine that is not everywhere; its tests are `engines/test_devices.py`.
    """
    options = {
        "variant": "fp32",
        "engine": "onnxruntime",
        "threads": 3,
        "on_overflow": "truncate",
        "on_invalid": "keep",
        "check_hashes": True,
        "token_budget": 99,
        "max_waiting_texts": 11,
        "fingerprint": read_manifest(bundle).fingerprint,
        "max_waiting_characters": 1234,
        "follow_links": True,
    }
    others = {field.name: field.default for field in dataclasses.fields(EncoderOptions) if field.name != "device"}
    assert set(options) == {name for name, default in others.items() if default != options[name]}
    with Encoder.load(bundle, **options) as encoder:
        _, (folder, sent) = encoder.__reduce__()
    assert (folder, sent) == (str(bundle.absolute()), EncoderOptions(**options))


def test_they_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EncoderOptions().threads = 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0, expected a whole number of at least 1"),
        ({"threads": True}, "threads is True, expected a whole number of at least 1"),
        ({"fingerprint": 7}, "fingerprint is 7, expected that of a manifest, or None"),
        ({"token_budget": 1.5}, "token_budget is 1.5, expected a whole number of at least 1"),
        ({"on_overflow": "cut"}, "on_overflow is 'cut', expected one of warn, truncate, raise"),
        ({"on_invalid": "skip"}, "on_invalid is 'skip', expected one of raise, keep"),
        ({"max_waiting_texts": 0}, "max_waiting_texts is 0, expected a whole number of at least 1"),
        ({"max_waiting_characters": 0.5}, "max_waiting_characters is 0.5, expected a whole number of at least 1"),
        ({"threads": -1}, "threads is -1, expected a whole number of at least 1"),
        ({"threads": 1e30}, "threads is 1e+30, expected a whole number of at least 1"),
        ({"threads": float("nan")}, "threads is nan, expected a whole number of at least 1"),
        ({"threads": float("inf")}, "threads is inf, expected a whole number of at least 1"),
        ({"threads": "2"}, "threads is '2', expected a whole number of at least 1"),
        ({"threads": 1025}, "threads is more than 1024, expected a whole number from 1 to 1024"),
        ({"threads": 10**30}, "threads is more than 1024, expected a whole number from 1 to 1024"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_bundle_is_opened(tmp_path, options, message):
    for make in (EncoderOptions, lambda **options: Encoder.load(tmp_path / "no bundle here", **options)):
        with pytest.raises(UsageError) as caught:
            make(**options)
        assert str(caught.value) == message

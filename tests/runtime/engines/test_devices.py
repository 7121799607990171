"""What `device=` may say, and which numbers an engine is given for it."""

import pickle

import numpy as np
import pytest
from fake_driver import H100, T4, FakeDriver, pretend_driver

from cls_runtime import Encoder, EngineError, UsageError, verify
from cls_runtime.encoding.options import EncoderOptions
from cls_runtime.engines import devices
from cls_runtime.engines.choice import CPU_ENGINES, ENGINES


@pytest.mark.parametrize(
    ("device", "numbers"),
    [
        (None, None),
        (0, (0,)),
        (1, (1,)),
        ("1", (1,)),
        ("cuda:1", (1,)),
        (" 1 ", (1,)),
        ("0,1", (0, 1)),
        ("1, 0", (1, 0)),
        ("cuda:0,cuda:2", (0, 2)),
        ((0, 1), (0, 1)),
        ([3], (3,)),
        (range(2), (0, 1)),
        (np.int64(1), (1,)),
        ((np.int32(0), 1), (0, 1)),
        ("all", "all"),
    ],
)
def test_what_a_device_may_be(device, numbers):
    found = devices.parsed(device)
    assert found == numbers
    assert not isinstance(found, tuple) or set(map(type, found)) == {int}


NO_DEVICES = [-1, 1024, True, 1.0, "", ",", "0,", "-1", "1.0", "one", "cpu", "cuda", "cuda:", "cuda:-1", "٣", "99999999999999999999", b"1"]


NOR_THESE = [(), [], (True,), ("0",), (-1,), (1.0,), {0}, {"cuda": 1}, object(), np.arange(2), np.eye(2)]


@pytest.mark.parametrize("device", [*NO_DEVICES, *NOR_THESE], ids=lambda device: type(device).__name__)
def test_what_it_may_not_be(device):
    with pytest.raises(UsageError, match=r"device is .*, expected a GPU's number such as 1 or 'cuda:1', several such as") as caught:
        devices.parsed(device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["0,0", "1,cuda:1", (2, 0, 2)])
def test_a_gpu_is_named_once(device):
    with pytest.raises(UsageError, match="names a GPU twice"):
        devices.parsed(device)


@pytest.mark.parametrize("engine", ["auto", *CPU_ENGINES])
@pytest.mark.parametrize("device", [0, "all", (0, 1)])
def test_it_is_for_an_engine_that_computes_on_gpus(bundle, engine, device):
    with pytest.raises(UsageError, match=f"device is .* and engine is '{engine}', expected engine 'cuda'"):
        Encoder.load(bundle, engine=engine, device=device)


@pytest.mark.parametrize(
    ("engine", "message"), [("tensorrt", "engine tensorrt was taken out, since"), ("cudo", "engine is 'cudo', expected one of auto, ")]
)
def test_a_wrong_engine_is_the_greater_mistake(bundle, engine, message):
    for use in (lambda: Encoder.load(bundle, engine=engine, device=0), lambda: verify(bundle, engines=[engine], device=0)):
        with pytest.raises(UsageError, match=message):
            use()


def test_options_refuse_it_when_they_are_made():
    with pytest.raises(UsageError, match="expected a GPU's number"):
        EncoderOptions(engine="cuda", device="gpu0")


def test_numbers_need_no_driver_and_all_asks_it(monkeypatch):
    pretend_driver(monkeypatch, None)
    assert devices.device_numbers(None, engine="cuda") == ()
    assert devices.device_numbers(None, engine="auto") == ()
    assert devices.device_numbers("1,0", engine="cuda") == (1, 0)
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        devices.device_numbers("all", engine="cuda")
    pretend_driver(monkeypatch, FakeDriver([H100, T4]))
    assert devices.device_numbers("all", engine="cuda") == (0, 1)
    pretend_driver(monkeypatch, FakeDriver())
    with pytest.raises(EngineError, match="finds no device"):
        devices.device_numbers("all", engine="cuda")


def test_what_computes_is_the_first_where_none_is_named():
    assert devices.computing((), engine="cuda") == (0,)
    assert devices.computing((1, 2), engine="cuda") == (1, 2)
    assert devices.computing((), engine="onnxruntime") == ()


def test_engines_that_compute_on_gpus_are_the_others():
    assert set(devices.GPU_ENGINES) == set(ENGINES) - set(CPU_ENGINES)


def test_an_encoder_on_the_cpu_has_none(encoder):
    assert encoder.info.devices == ()


@pytest.fixture
def given(monkeypatch, watched_engine):
    """What the GPU's engine module is given by each load; a CPU engine stands for it."""
    from cls_runtime.engines.cuda import load

    seen = []
    monkeypatch.setattr(load, "load", lambda bundle, **options: seen.append(options) or watched_engine)
    return seen


@pytest.mark.parametrize(
    ("device", "numbers", "info"), [(None, (), (0,)), ("cuda:1", (1,), (1,)), ((1, 0), (1, 0), (1, 0)), ("all", (0, 1), (0, 1))]
)
def test_an_encoder_gives_the_engine_its_numbers_and_says_them(bundle, given, monkeypatch, device, numbers, info):
    pretend_driver(monkeypatch, FakeDriver([H100, T4]))
    with Encoder.load(bundle, engine="cuda", variant="fp32", threads=2, device=device) as encoder:
        assert encoder.info.devices == info
    assert given == [{"variant": "fp32", "threads": 2, "devices": numbers}]


def test_a_copy_in_another_process_finds_all_of_that_machine(bundle, given, monkeypatch):
    pretend_driver(monkeypatch, FakeDriver([H100, T4]))
    encoder = Encoder.load(bundle, engine="cuda", variant="fp32", device="all")
    pretend_driver(monkeypatch, FakeDriver([H100]))
    copy = pickle.loads(pickle.dumps(encoder))
    assert (encoder.info.devices, copy.info.devices) == ((0, 1), (0,))

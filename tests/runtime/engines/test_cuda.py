"""The GPU engines. On a machine without a GPU: what is missing is said in one line, and nothing falls back to the CPU."""

import ctypes
import types

import numpy as np
import pytest

from cls_runtime import Bundle, Encoder, EngineError, MissingExtraError
from cls_runtime.engines import tensorrt
from cls_runtime.engines.cuda import load as cuda

ENGINES = [("cuda", cuda.PROVIDER), ("tensorrt", tensorrt.PROVIDER)]


class Driver:
    """A CUDA driver that answers as told."""

    def __init__(self, *, status=0, devices=0):
        self.status, self.devices = status, devices

    def cuInit(self, flags):  # noqa: N802
        return self.status

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.devices
        return 0


def pretend(monkeypatch, *, providers, driver=None, came_up=()):
    """An onnxruntime with these providers, of which `came_up` are in a session, on a machine with this driver (None: none)."""

    class Session:
        def __init__(self, *arguments, **options):
            pass

        def get_providers(self):
            return [*came_up, "CPUExecutionProvider"]

    class Options:
        def add_session_config_entry(self, key, value):
            pass

    failure = types.SimpleNamespace(onnxruntime_pybind11_state=types.SimpleNamespace(EPFail=KeyError))
    ort = types.SimpleNamespace(
        get_available_providers=lambda: [*providers, "CPUExecutionProvider"],
        InferenceSession=Session,
        SessionOptions=Options,
        capi=failure,
        __version__="1.0",
        cuda_version="12.8",
    )
    monkeypatch.setattr(cuda, "import_package", lambda: ort)

    def open_library(name):
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.setattr(cuda.ctypes, "CDLL", open_library)


@pytest.mark.parametrize(("engine", "provider"), ENGINES)
def test_the_cpu_wheel_is_named_with_the_command_that_mends_it(bundle, monkeypatch, engine, provider):
    pretend(monkeypatch, providers=[])
    monkeypatch.setattr(cuda, "is_installed", lambda wheel: wheel == "onnxruntime")
    expected = (
        rf"engine {engine} needs {provider}, the installed onnxruntime has CPUExecutionProvider; "
        r"run: pip uninstall -y onnxruntime && pip install cls-export\[gpu\]"
    )
    with pytest.raises(MissingExtraError, match=expected) as caught:
        Encoder.load(bundle, engine=engine)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("installed", "swap"),
    [
        (["onnxruntime"], "pip uninstall -y onnxruntime && "),
        (["onnxruntime", "onnxruntime-gpu"], "pip uninstall -y onnxruntime onnxruntime-gpu && "),
        (["onnxruntime-gpu"], ""),
    ],
)
def test_the_command_takes_out_every_wheel_in_the_way(bundle, monkeypatch, installed, swap):
    """With both installed, uninstalling one breaks the other, and pip would then say that it is there already."""
    pretend(monkeypatch, providers=[])
    monkeypatch.setattr(cuda, "is_installed", installed.__contains__)
    with pytest.raises(MissingExtraError) as caught:
        Encoder.load(bundle, engine="cuda")
    assert str(caught.value).endswith(f"; run: {swap}pip install cls-export[gpu]")


@pytest.mark.parametrize(("engine", "provider"), ENGINES)
@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (None, r"this machine has no NVIDIA driver \(.*\); install it, or use engine='onnxruntime'"),
        (Driver(status=999), "the driver fails with CUDA error 999"),
        (Driver(devices=0), "the driver finds no device"),
    ],
)
def test_no_gpu_is_said_before_onnx_runtime_writes_its_own_lines(bundle, monkeypatch, engine, provider, driver, message):
    pretend(monkeypatch, providers=[provider, cuda.PROVIDER], driver=driver)
    with pytest.raises(EngineError, match=message) as caught:
        Encoder.load(bundle, engine=engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("engine", "provider"), ENGINES)
def test_a_provider_that_does_not_come_up_is_an_error_and_no_fallback(bundle, monkeypatch, engine, provider):
    pretend(monkeypatch, providers=[provider, cuda.PROVIDER], driver=Driver(devices=1))
    with pytest.raises(EngineError, match=f"{provider} did not come up, .* built for CUDA 12.8"):
        Encoder.load(bundle, engine=engine)


@pytest.mark.parametrize("engine", [cuda, tensorrt])
def test_norms_keep_their_statistics_in_float32(bundle, monkeypatch, engine):
    """fp16 files hold SkipLayerNormalization, and what TensorRT does not take runs on the CUDA provider."""
    asked = []
    pretend(monkeypatch, providers=[tensorrt.PROVIDER, cuda.PROVIDER], driver=Driver(devices=1))
    monkeypatch.setattr(cuda.import_package(), "InferenceSession", lambda *_, providers: asked.extend(providers) or refuse())
    with pytest.raises(EngineError):
        engine.load(Bundle.open(bundle), variant="fp32", threads=1)
    (options,) = [item[1] for item in asked if item[0] == cuda.PROVIDER]
    assert options["enable_skip_layer_norm_strict_mode"] == "1"


def refuse():
    raise MemoryError("after the options were seen")


def test_what_is_really_installed_here_is_an_error_or_a_gpu(bundle):
    """No pretence: with the CPU wheel or without a driver this is an error; with a GPU it is the GPU."""
    try:
        encoder = Encoder.load(bundle, engine="cuda", variant="fp32")
    except (MissingExtraError, EngineError) as error:
        assert "engine cuda needs" in str(error)  # noqa: PT017
    else:
        with encoder:
            assert encoder.info.providers[0] == cuda.PROVIDER


@pytest.fixture(scope="session")  # so that it skips before a bundle is made
def gpu():
    ort = pytest.importorskip("onnxruntime")
    if cuda.PROVIDER not in ort.get_available_providers():
        pytest.skip("the installed onnxruntime has no CUDA provider")
    try:
        ctypes.CDLL(cuda.DRIVER)
    except OSError:
        pytest.skip(f"this machine has no NVIDIA driver ({cuda.DRIVER})")


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("engine", "provider"), ENGINES)
def test_vectors_are_those_of_the_cpu(minilm_bundle, engine, provider):
    texts = ["a young child is riding a horse", "a", "", "three men are playing chess " * 20]
    with Encoder.load(minilm_bundle, engine="onnxruntime", variant="fp32") as encoder:
        reference = encoder.encode(texts)
    with Encoder.load(minilm_bundle, engine=engine, variant="fp32") as encoder:
        assert encoder.info.providers[0] == provider
        # TF32 products are what a GPU gives for fp32; fp16's bound is the one for them.
        np.testing.assert_allclose(encoder.encode(texts), reference, rtol=0, atol=2e-2)

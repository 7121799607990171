"""The GPU engine. On a machine without a GPU: what is missing is said in one line, and nothing falls back to the CPU."""

import types

import numpy as np
import pytest
from bundle_builder import build_bundle
from fake_driver import H100, T4, FakeDriver, pretend_driver

from cls_runtime import Bundle, Encoder, EngineError, MissingExtraError
from cls_runtime.engines.cuda import load as cuda


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

    pretend_driver(monkeypatch, driver)


def test_the_cpu_wheel_is_named_with_the_command_that_mends_it(bundle, monkeypatch):
    pretend(monkeypatch, providers=[])
    monkeypatch.setattr(cuda, "is_installed", lambda wheel: wheel == "onnxruntime")
    expected = (
        r"engine cuda needs CUDAExecutionProvider, the installed onnxruntime has CPUExecutionProvider; "
        r"run: pip uninstall -y onnxruntime && pip install cls-export\[gpu\]"
    )
    with pytest.raises(MissingExtraError, match=expected) as caught:
        Encoder.load(bundle, engine="cuda")
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


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (None, r"this machine has no NVIDIA driver \(.*\); install it, or use engine='onnxruntime'"),
        (FakeDriver(init_status=999), r"the driver fails with CUDA error 999 \(CUDA_ERROR_UNKNOWN\)"),
        (FakeDriver(), "the driver finds no device"),
    ],
)
def test_no_gpu_is_said_before_onnx_runtime_writes_its_own_lines(bundle, monkeypatch, driver, message):
    pretend(monkeypatch, providers=[cuda.PROVIDER], driver=driver)
    with pytest.raises(EngineError, match=message) as caught:
        Encoder.load(bundle, engine="cuda")
    assert "\n" not in str(caught.value)


def test_a_provider_that_does_not_come_up_is_an_error_and_no_fallback(bundle, monkeypatch):
    pretend(monkeypatch, providers=[cuda.PROVIDER], driver=FakeDriver([H100]))
    with pytest.raises(EngineError, match="CUDAExecutionProvider did not come up .* built for CUDA 12.8, run: pip install 'cls-export"):
        Encoder.load(bundle, engine="cuda")


def test_a_library_that_does_not_load_is_named(bundle, monkeypatch):
    pretend(monkeypatch, providers=[cuda.PROVIDER], driver=FakeDriver([H100]))
    monkeypatch.setattr(cuda, "preload", lambda ort: ("Failed to load libcublas.so.12: no such file", "Please install it"))
    with pytest.raises(EngineError, match=r"did not come up \(Failed to load libcublas.so.12: no such file\)"):
        Encoder.load(bundle, engine="cuda")


@pytest.fixture
def asked(monkeypatch):
    """The options of the CUDA provider that a session is asked for, which then ends."""
    seen = {}
    pretend(monkeypatch, providers=[cuda.PROVIDER], driver=FakeDriver([H100, T4]))

    def session(*_, providers, **more):
        seen.update(more)
        seen.update(dict(providers[:1])[cuda.PROVIDER])
        raise MemoryError("after the options were seen")

    monkeypatch.setattr(cuda.import_package(), "InferenceSession", session)
    return seen


def test_norms_keep_their_statistics_in_float32(bundle, asked):
    """fp16 files hold SkipLayerNormalization."""
    with pytest.raises(EngineError):
        cuda.load(Bundle.open(bundle), variant="fp32", threads=1)
    assert asked["enable_skip_layer_norm_strict_mode"] == "1"


def test_onnx_runtime_does_not_fall_back_to_the_cpu_by_itself(bundle, asked):
    """It would print to standard output, and hide why the GPU did not load the graph."""
    with pytest.raises(EngineError):
        cuda.load(Bundle.open(bundle), variant="fp32", threads=1)
    assert asked["enable_fallback"] is False


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_fp32_products_are_no_tf32(bundle_of_both, asked, variant):
    """ONNX Runtime's own choice is TF32, which misses fp32's thresholds."""
    with pytest.raises(EngineError):
        cuda.load(Bundle.open(bundle_of_both), variant=variant, threads=1)
    assert asked["use_tf32"] == "0"


def test_tf32_is_for_who_asks_for_it_by_name(asked):
    assert cuda._provider_options(0, "tf32")["use_tf32"] == "1"


@pytest.fixture
def bundle_of_both(tmp_path):
    return build_bundle(tmp_path / "both", variants={"fp32": None, "fp16": None})


@pytest.mark.parametrize(("device", "expected"), [(None, None), (0, None), ("cuda:1", "1")])
def test_the_gpus_number_is_told_where_it_is_not_the_first(bundle, asked, device, expected):
    """Told of the first too, ONNX Runtime writes a line of its own to standard error."""
    with pytest.raises(EngineError):
        Encoder.load(bundle, engine="cuda", device=device)
    assert asked.get("device_id") == expected


def test_a_gpu_that_is_not_there_is_one_line_naming_those_that_are(bundle, monkeypatch):
    pretend(monkeypatch, providers=[cuda.PROVIDER], driver=FakeDriver([H100, T4]))
    with pytest.raises(
        EngineError, match=r"GPU 2 is not there, the driver has 0 \(NVIDIA H100 80GB HBM3, 79 GiB\), 1 \(Tesla T4, 15 GiB\)"
    ):
        Encoder.load(bundle, engine="cuda", device="0,2")


def test_what_is_really_installed_here_is_an_error_or_a_gpu(bundle):
    """No pretence: with the CPU wheel or without a driver this is an error; with a GPU it is the GPU."""
    try:
        encoder = Encoder.load(bundle, engine="cuda", variant="fp32")
    except (MissingExtraError, EngineError) as error:
        assert "engine cuda needs" in str(error)  # noqa: PT017
    else:
        with encoder:
            assert encoder.info.providers[0] == cuda.PROVIDER


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_vectors_are_those_of_the_cpu(minilm_bundle):
    texts = ["a young child is riding a horse", "a", "", "three men are playing chess " * 20]
    with Encoder.load(minilm_bundle, engine="onnxruntime", variant="fp32") as encoder:
        reference = encoder.encode(texts)
    with Encoder.load(minilm_bundle, engine="cuda", variant="fp32") as encoder:
        assert encoder.info.providers[0] == cuda.PROVIDER
        np.testing.assert_allclose(encoder.encode(texts), reference, rtol=0, atol=5e-5)

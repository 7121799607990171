"""What ONNX Runtime's sessions are told."""

import onnxruntime
import pytest

from cls_runtime.engines import onnxruntime as engine


@pytest.mark.parametrize(
    ("features", "precise"),
    [({"avx2"}, True), (None, True), ({"avx2", "avx512_vnni"}, False), ({"avx2", "avx_vnni"}, False)],
    ids=["AVX2 only", "unknown", "AVX512-VNNI", "AVX-VNNI"],
)
def test_only_a_cpu_that_would_saturate_takes_the_slow_kernels(features, precise, monkeypatch):
    monkeypatch.setattr(engine, "cpu_features", lambda: None if features is None else frozenset(features))
    options = engine._options(onnxruntime)
    if precise:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError):  # no such entry
            options.get_session_config_entry("session.x64quantprecision")

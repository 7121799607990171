"""What tests of several engines share."""

import pytest

from cls_runtime import EngineError
from cls_runtime.engines.cuda import driver
from cls_runtime.engines.cuda import load as cuda


@pytest.fixture(scope="session")  # so that it skips before a bundle is made
def gpu():
    ort = pytest.importorskip("onnxruntime")
    if cuda.PROVIDER not in ort.get_available_providers():
        pytest.skip("the installed onnxruntime has no CUDA provider")
    try:
        driver.device_count()
    except EngineError as error:
        pytest.skip(str(error))

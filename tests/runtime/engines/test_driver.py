"""What the NVIDIA driver is asked, by a stand-in that answers as `cuda.h` says."""

import pytest
from fake_driver import H100, T4, FakeDriver, pretend_driver

from cls_runtime import EngineError
from cls_runtime.engines.cuda import driver
from cls_runtime.engines.cuda.driver import Gpu


def test_gpus_are_those_of_the_driver(monkeypatch):
    pretend_driver(monkeypatch, FakeDriver([H100, T4]))
    assert driver.device_count() == 2
    assert driver.gpus() == (
        Gpu(number=0, name="NVIDIA H100 80GB HBM3", memory_bytes=79 * 2**30, compute_capability=(9, 0)),
        Gpu(number=1, name="Tesla T4", memory_bytes=15 * 2**30, compute_capability=(7, 5)),
    )
    assert [str(gpu) for gpu in driver.gpus()] == ["0 (NVIDIA H100 80GB HBM3, 79 GiB)", "1 (Tesla T4, 15 GiB)"]


@pytest.mark.parametrize(("number", "version"), [(13000, "13.0"), (12080, "12.8"), (11040, "11.4")])
def test_the_cuda_that_it_runs(monkeypatch, number, version):
    pretend_driver(monkeypatch, FakeDriver([H100], version=number))
    assert driver.cuda_version() == version


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        (None, r"this machine has no NVIDIA driver \(.*\); install it, or use engine='onnxruntime'"),
        (FakeDriver(), "the driver finds no device; see nvidia-smi"),
        (FakeDriver([H100], init_status=100), "the driver finds no device; see nvidia-smi"),
        (FakeDriver([H100], init_status=999), r"the driver fails with CUDA error 999 \(CUDA_ERROR_UNKNOWN\); see nvidia-smi"),
        (FakeDriver([H100], init_status=12345), r"the driver fails with CUDA error 12345; see nvidia-smi"),
        (FakeDriver([H100], failing="cuDeviceGetCount"), r"CUDA error 3 \(CUDA_ERROR_NOT_INITIALIZED\)"),
        (FakeDriver([H100], failing="cuDeviceGet"), "CUDA error 3"),
        (FakeDriver([H100], failing="cuDeviceTotalMem_v2"), "CUDA error 3"),
        (FakeDriver([H100], failing="cuDeviceGetAttribute"), "CUDA error 3"),
    ],
)
def test_what_is_missing_is_one_line(monkeypatch, fake, message):
    monkeypatch.delenv(driver.VISIBLE, raising=False)
    pretend_driver(monkeypatch, fake)
    with pytest.raises(EngineError, match=f"engine cuda needs an NVIDIA GPU, .*{message}") as caught:
        driver.gpus()
    assert "\n" not in str(caught.value)


def test_gpus_that_are_hidden_are_named_as_the_reason(monkeypatch):
    monkeypatch.setenv(driver.VISIBLE, "")
    pretend_driver(monkeypatch, FakeDriver(init_status=100))
    with pytest.raises(EngineError, match=r"finds no device \(CUDA_VISIBLE_DEVICES is ''\)"):
        driver.device_count()


@pytest.mark.parametrize("numbers", [(), (0,), (1, 0)])
def test_devices_that_are_there_pass(monkeypatch, numbers):
    pretend_driver(monkeypatch, FakeDriver([H100, T4]))
    driver.check_devices(numbers)


@pytest.mark.parametrize("numbers", [(2,), (0, 2), (2, 3)])
def test_one_that_is_not_there_is_one_line_naming_those_that_are(monkeypatch, numbers):
    pretend_driver(monkeypatch, FakeDriver([H100, T4]))
    expected = r"GPU 2 is not there, the driver has 0 \(NVIDIA H100 80GB HBM3, 79 GiB\), 1 \(Tesla T4, 15 GiB\); name one of them"
    with pytest.raises(EngineError, match=expected):
        driver.check_devices(numbers)


OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22-I3-AF03-21-3)  Sun Jul 27 2025\n"
)
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version:  gcc version 11.4.0\n"


@pytest.mark.parametrize(
    ("text", "version"), [(OPEN, "580.65.06"), (CLOSED, "535.183.01"), ("", None), ("GCC version: 11.4.0 \n", None), ("\udcff", None)]
)
def test_the_drivers_own_version(tmp_path, text, version):
    file = tmp_path / "version"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert driver.driver_version(file=file) == version
    assert driver.driver_version(file=tmp_path / "absent") is None


def test_this_machine_is_asked_too():
    """No pretence: a GPU, or the one line that says what is missing."""
    try:
        found = driver.gpus()
    except EngineError as error:
        assert "engine cuda needs an NVIDIA GPU" in str(error)  # noqa: PT017
    else:
        assert all(gpu.memory_bytes > 2**28 and gpu.name for gpu in found)

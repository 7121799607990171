import dataclasses
import json
import re
import subprocess
import sys

import pytest
from fake_driver import pretend_driver

from cls_runtime import doctor as doctor_module
from cls_runtime.commands import doctor
from cls_runtime.engines import choice, onnxruntime, openvino
from cls_runtime.engines.cuda.checkup import Checkup
from cls_runtime.engines.cuda.driver import Gpu
from cls_runtime.errors import MissingExtraError


def run(*arguments):
    return doctor.main([str(argument) for argument in arguments])


@pytest.fixture
def no_engine(monkeypatch):
    def missing():
        raise MissingExtraError("onnxruntime is not installed; run: pip install cls-export[cpu]")

    monkeypatch.setattr(onnxruntime, "import_package", missing)
    monkeypatch.setattr(choice, "is_importable", lambda package: False)
    monkeypatch.setattr(openvino, "_import", missing)
    monkeypatch.setattr(doctor_module, "native_probe", missing)


def test_it_says_what_works_and_what_auto_takes(capsys):
    assert run() == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for expected in ("Machine", "python", "cpu features", "Packages", "numpy", "Engines", "auto picks int8 on "):
        assert expected in captured.out
    assert re.search(r"onnxruntime +works +CPUExecutionProvider", captured.out)


def test_a_bundle_is_explained(golden_bundle, capsys):
    assert run(golden_bundle) == 0
    output = capsys.readouterr().out
    assert re.search(rf"Bundle {re.escape(str(golden_bundle))}\n  works: tiny, fp32 on (onnxruntime|openvino) with ", output)
    assert re.search("variant fp32: the fastest on (onnxruntime|openvino) whose recorded parity meets its thresholds", output)


def test_problems_are_lines_on_standard_error_and_exit_code_2(no_engine, tmp_path, capsys):
    assert run(tmp_path / "none") == 2
    captured = capsys.readouterr()
    assert "does not work" in captured.out
    lines = captured.err.splitlines()
    assert lines[0] == "error: onnxruntime does not work: onnxruntime is not installed; run: pip install cls-export[cpu]"
    assert all(" does not work: " in line for line in lines[:-1])  # a line for each engine that is installed
    assert lines[-1].startswith(f"error: the bundle cannot be used: bundle {tmp_path / 'none'} does not exist")


@pytest.mark.parametrize("with_bundle", [False, True])
def test_json_is_one_document(golden_bundle, capsys, with_bundle):
    assert run("--json", *([golden_bundle] if with_bundle else [])) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"usable", "cls_export", *(field.name for field in dataclasses.fields(doctor_module.Diagnosis))}
    assert document["usable"] is True
    assert [engine["name"] for engine in document["engines"]] == ["onnxruntime", "openvino", "native", "cuda"]
    assert (document["bundle"] is not None) is with_bundle


def test_json_tells_of_problems_too(no_engine, capsys):
    assert run("--json") == 2
    document = json.loads(capsys.readouterr().out)
    assert document["usable"] is False
    assert "pip install" in document["problems"][0]


def test_both_wheels_are_a_warning(monkeypatch, capsys):
    monkeypatch.setattr(onnxruntime, "is_installed", lambda wheel: True)
    assert run() == 0
    assert capsys.readouterr().err.startswith("warning: onnxruntime and onnxruntime-gpu are both installed")


def test_what_replaces_another_is_not_recommended(capsys):
    diagnosis = doctor_module.diagnose()
    packages = tuple(
        dataclasses.replace(package, version={"onnxruntime": "1.0"}.get(package.name))
        if package.name.startswith("onnxruntime")
        else package
        for package in diagnosis.packages
    )
    (line,) = [line for line in doctor.diagnosis_lines(dataclasses.replace(diagnosis, packages=packages)) if "onnxruntime-gpu" in line]
    assert "pip install" not in line
    assert "do not install both" in line


def test_it_does_not_import_what_it_only_lists():
    program = (
        "import sys; from cls_runtime.commands import doctor; code = doctor.main([])\n"
        "loaded = sorted({'torch', 'transformers', 'onnx', 'pyarrow', 'cls_exporter'} & set(sys.modules))\n"
        "sys.exit(str(loaded) if loaded else code)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_help_has_examples(capsys):
    assert run("--help") == 0
    assert "cls-doctor models/my-model" in capsys.readouterr().out


WELL = Checkup(
    driver="580.65.06",
    cuda="13.0",
    gpus=(
        Gpu(number=0, name="NVIDIA H100 80GB HBM3", memory_bytes=79 * 2**30, compute_capability=(9, 0)),
        Gpu(number=1, name="Tesla T4", memory_bytes=15 * 2**30, compute_capability=(7, 5)),
    ),
    libraries=(),
    cudnn=True,
    attention="FLASH_ATTENTION",
)


def gpu_section(output):
    """The lines below GPU, their columns by one space."""
    (section,) = [part for part in output.split("\n\n") if part.startswith("GPU\n")]
    return [re.sub(r"\s+", " ", line.strip()) for line in section.splitlines()[1:]]


def test_gpus_are_told(monkeypatch, capsys):
    monkeypatch.setattr(doctor_module, "check_up", lambda: WELL)
    assert run() == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert gpu_section(captured.out) == [
        "driver 580.65.06, for CUDA 13.0",
        "cuda:0 NVIDIA H100 80GB HBM3, 79 GiB, compute capability 9.0",
        "cuda:1 Tesla T4, 15 GiB, compute capability 7.5",
        "CUDA its libraries load",
        "cuDNN its library loads",
        "attention FLASH_ATTENTION: computed by the fast kernel",
    ]
    assert run("--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["gpu"]["gpus"][1] == {"number": 1, "name": "Tesla T4", "memory_bytes": 15 * 2**30, "compute_capability": [7, 5]}


def test_what_is_wrong_with_them_is_told(monkeypatch, capsys):
    complaint = "Failed to load libcublas.so.13: no such file"
    found = dataclasses.replace(WELL, driver=None, libraries=(complaint,), cudnn=False, attention=None, problem="it does not run")
    monkeypatch.setattr(doctor_module, "check_up", lambda: found)
    assert run() == 0
    captured = capsys.readouterr()
    assert gpu_section(captured.out)[0] == "driver of unknown version, for CUDA 13.0"
    assert gpu_section(captured.out)[-3:] == [
        f"CUDA {complaint}",
        "cuDNN its library does not load; run: pip install 'cls-export[gpu]'",
        "attention it does not run",
    ]
    assert captured.err == ""  # the engine's own line says why it does not work


def test_another_kernel_than_the_fast_one_is_a_warning(monkeypatch, capsys):
    monkeypatch.setattr(doctor_module, "check_up", lambda: dataclasses.replace(WELL, attention="MATH", problem="MATH computes attention"))
    assert run() == 0
    captured = capsys.readouterr()
    assert gpu_section(captured.out)[-1] == "attention MATH: MATH computes attention"
    assert captured.err == "warning: engine cuda: MATH computes attention\n"


def test_without_a_gpu_there_is_no_section(monkeypatch, capsys):
    pretend_driver(monkeypatch, None)
    assert run() == 0
    output = capsys.readouterr().out
    assert "\nGPU\n" not in output
    assert len([line for line in output.splitlines() if line.strip().startswith("cuda ")]) == 1

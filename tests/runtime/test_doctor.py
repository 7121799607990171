import onnx
import pytest
from onnx import helper

from cls_runtime import doctor
from cls_runtime.engines import choice, onnxruntime, openvino, probe_graph
from cls_runtime.engines.cuda import attention_kernel
from cls_runtime.engines.hand_made_graphs import GRAPHS
from cls_runtime.engines.installed import installed_version
from cls_runtime.errors import EngineError, InstallationWarning, MissingExtraError


def test_the_probe_is_a_valid_graph():
    model = onnx.load_from_string(probe_graph.graph_bytes())
    onnx.checker.check_model(model, full_check=True)
    assert [item.name for item in model.graph.input] == ["input_ids", "attention_mask"]
    (node,) = model.graph.node
    assert node == helper.make_node("Cast", ["input_ids"], ["sentence_embedding"], to=onnx.TensorProto.FLOAT)


@pytest.mark.parametrize("module", [probe_graph, attention_kernel], ids=["probe_graph", "attention_kernel"])
def test_the_packages_graphs_are_those_that_the_code_makes(module):
    assert (GRAPHS / f"{module.VARIANT}.onnx").read_bytes() == module.graph_bytes()


def test_a_working_engine_works():
    assert probe_graph.probe(onnxruntime) == ("CPUExecutionProvider",)


class Broken:
    """An engine that loads and then computes something else."""

    name, workers, providers = "broken", 1, ("Nothing",)
    closed = False

    def load(self, bundle, *, variant, threads, devices=()):
        return self

    def run(self, batch, outputs):
        return [batch.input_ids[None].astype("float32") + 1]

    def close(self):
        self.closed = True


def test_an_engine_that_computes_something_else_does_not_work():
    engine = Broken()
    with pytest.raises(EngineError, match=r"broken computed \[\[4.0, 2.0, 5.0\]\] \(float32\), expected \[\[3, 1, 4\]\]"):
        probe_graph.probe(engine)
    assert engine.closed


def test_this_machine_is_usable():
    found = doctor.diagnose()
    assert found.problems == ()
    assert found.python.startswith("CPython 3.")
    assert 1 <= found.usable_cpus <= found.host_cpus
    versions = {package.name: package.version for package in found.packages}
    assert versions["numpy"]
    assert versions["tokenizers"]
    assert [engine.name for engine in found.engines] == ["onnxruntime", "openvino", "native", "cuda"]
    assert next(engine.works for engine in found.engines if engine.name == "onnxruntime")
    assert found.auto.startswith("int8 on ")
    assert found.bundle is None


def test_a_bundle_is_tried(bundle):
    status = doctor.diagnose(bundle).bundle
    assert status.usable
    assert status.engine in ("onnxruntime", "openvino")
    assert status.variant == "fp32"
    assert any("variant fp32" in reason for reason in status.reasons)
    assert status.seconds_to_first_vector > 0


def test_a_changed_bundle_is_a_problem(own_bundle):
    path = own_bundle / "onnx" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = doctor.diagnose(own_bundle)
    assert not found.bundle.usable
    (problem,) = found.problems
    assert "the bundle cannot be used" in problem
    assert "sha256" in problem


def test_no_engine_is_a_problem_that_says_how_to_mend_it(monkeypatch):
    def missing():
        raise MissingExtraError("onnxruntime is not installed; run: pip install cls-export[cpu]")

    monkeypatch.setattr(onnxruntime, "import_package", missing)
    monkeypatch.setattr(openvino, "_import", missing)
    monkeypatch.setattr(doctor, "native_probe", missing)
    monkeypatch.setattr(choice, "installed_engines", tuple)
    found = doctor.diagnose()
    assert found.problems[:1] == ("onnxruntime does not work: onnxruntime is not installed; run: pip install cls-export[cpu]",)
    assert found.auto == "none: no inference engine is installed; run: pip install cls-export[cpu]"


def test_the_gpu_wheel_without_a_gpu_is_tried_on_the_cpu_by_name(bundle, monkeypatch):
    monkeypatch.setattr(choice, "installed_engines", lambda: ("onnxruntime",))
    monkeypatch.setattr(choice, "is_installed", lambda wheel: wheel == "onnxruntime-gpu")
    found = doctor.diagnose(bundle)
    assert found.auto.startswith("none: engine auto takes neither a GPU nor the CPU in its place")
    assert (found.bundle.usable, found.bundle.engine) == (True, "onnxruntime")
    assert found.problems == ()


def test_both_onnxruntime_wheels_are_a_warning(monkeypatch):
    monkeypatch.setattr(onnxruntime, "is_installed", lambda wheel: True)
    found = doctor.diagnose()
    assert found.problems == ()
    (warning,) = found.warnings
    assert "onnxruntime and onnxruntime-gpu are both installed" in warning
    assert "pip uninstall" in warning
    with pytest.warns(InstallationWarning):
        onnxruntime.import_package()


def test_a_package_that_is_not_installed_has_no_version():
    assert installed_version("a-distribution-that-is-not-there") is None

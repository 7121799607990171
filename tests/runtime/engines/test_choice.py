import sys
import types
import warnings
from dataclasses import replace

import numpy as np
import pytest
from bundle_builder import EXACT

from cls_runtime import Bundle, BundleError, Encoder, EngineError, InstallationWarning, MissingExtraError, UsageError, doctor
from cls_runtime.bundle.manifest import Variant, read_manifest
from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.engines import choice, onnxruntime
from cls_runtime.engines.choice import choose
from cls_runtime.engines.installed import is_importable

GOOD = Variant(files=(), recipe={}, parity={"cls": EXACT}, batch_invariance_max_abs=0.0)


@pytest.fixture(autouse=True)
def only_onnxruntime(monkeypatch):
    """What is installed must not decide these tests; those that are about it say so."""
    install(monkeypatch, "onnxruntime")


def install(monkeypatch, *wheels):
    packages = {wheel.removesuffix("-gpu") for wheel in wheels}
    monkeypatch.setattr(choice, "is_importable", packages.__contains__)
    monkeypatch.setattr(choice, "is_installed", wheels.__contains__)


@pytest.fixture
def manifest(bundle):
    held = read_manifest(bundle)

    def with_variants(**variants):
        return replace(held, variants=variants)

    return with_variants


def test_int8_is_preferred_where_its_parity_holds(manifest):
    chosen = choose(manifest(fp32=GOOD, int8=GOOD))
    assert (chosen.engine, chosen.variant) == ("onnxruntime", "int8")
    assert any("fastest" in reason for reason in chosen.reasons)


POOR = {
    "mean_cosine": replace(EXACT, mean_cosine=0.9989),
    "p1_cosine": replace(EXACT, p1_cosine=0.9979),
    "min_cosine": replace(EXACT, min_cosine=0.9949),
}


@pytest.mark.parametrize("figure", POOR)
def test_int8_is_passed_over_where_a_figure_misses(manifest, figure):
    poor = replace(GOOD, parity={"cls": EXACT, "pooler": POOR[figure]})
    chosen = choose(manifest(fp32=GOOD, int8=poor))
    assert chosen.variant == "fp32"
    assert any("int8: passed over, pooler " + figure in reason for reason in chosen.reasons)


UNEVEN = {"fp32": {"batch_invariance_max_abs": 1.1e-5}, "int8": {"batch_invariance_min_cosine": 0.99989}}


@pytest.mark.parametrize(("poor", "taken"), [("int8", "fp32"), ("fp32", "int8")])
def test_a_variant_whose_vectors_depend_on_the_batch_is_passed_over(manifest, monkeypatch, poor, taken):
    """The figures of parity alone are perfect."""
    monkeypatch.setitem(choice.ENGINES, "onnxruntime", replace(choice.ENGINES["onnxruntime"], variants=(poor, taken)))
    held = manifest(**{poor: replace(GOOD, **UNEVEN[poor]), taken: GOOD})
    chosen = choose(held)
    assert chosen.variant == taken
    assert any(f"variant {poor}: passed over, batch invariance m" in reason for reason in chosen.reasons)
    assert choose(manifest(**{poor: GOOD, taken: GOOD})).variant == poor


def test_a_variant_without_figures_is_passed_over(manifest):
    assert choose(manifest(fp32=GOOD, int8=replace(GOOD, parity={}))).variant == "fp32"


def test_fp16_is_never_taken_on_a_cpu_unless_named(manifest):
    assert choose(manifest(fp32=GOOD, fp16=GOOD)).variant == "fp32"
    assert choose(manifest(fp32=GOOD, fp16=GOOD), variant="fp16").variant == "fp16"
    with pytest.raises(BundleError, match=r"no variant for onnxruntime .*the bundle has fp16, name one"):
        choose(manifest(fp16=GOOD))


def test_a_variant_for_other_engines(manifest):
    other = replace(GOOD, engines=("openvino",))
    assert choose(manifest(fp32=GOOD, int8=other)).variant == "fp32"
    with pytest.raises(UsageError, match="variant int8 is for openvino, not for onnxruntime"):
        choose(manifest(fp32=GOOD, int8=other), variant="int8")


def test_a_variant_for_no_engine(manifest):
    with pytest.raises(UsageError, match="variant fp32 is for no engine of this version, not for onnxruntime"):
        choose(manifest(fp32=replace(GOOD, engines=())), variant="fp32")


def test_a_variant_for_another_cpu(manifest, monkeypatch):
    needs = replace(GOOD, cpu_features=("avx512_vnni",))
    monkeypatch.setattr(choice, "cpu_features", lambda: frozenset({"avx512_vnni"}))
    assert choose(manifest(fp32=GOOD, int8=needs)).variant == "int8"
    monkeypatch.setattr(choice, "cpu_features", lambda: frozenset({"avx2"}))
    assert choose(manifest(fp32=GOOD, int8=needs)).variant == "fp32"
    with pytest.raises(EngineError, match="needs a CPU with avx512_vnni, which this one lacks"):
        choose(manifest(fp32=GOOD, int8=needs), variant="int8")
    monkeypatch.setattr(choice, "cpu_features", lambda: None)
    assert choose(manifest(fp32=GOOD, int8=needs)).variant == "fp32"
    assert choose(manifest(fp32=GOOD, int8=needs), variant="int8").variant == "int8"


def test_a_named_variant_that_is_not_there(manifest):
    with pytest.raises(UsageError, match=r"no variant 'int8', it has fp32; export it with --int8"):
        choose(manifest(fp32=GOOD), variant="int8")


class TestPreferredEngine:
    @pytest.fixture(autouse=True)
    def two_engines(self, monkeypatch):
        install(monkeypatch, "onnxruntime", "openvino")

    @pytest.mark.parametrize("variant", ["auto", "fp32", "int8"])
    @pytest.mark.parametrize("features", [{"avx512f", "avx512_vnni"}, {"asimddp"}, None], ids=["AVX512", "ARM", "unknown"])
    def test_is_onnxruntime_on_every_cpu_for_every_variant(self, manifest, monkeypatch, variant, features):
        monkeypatch.setattr(choice, "cpu_features", lambda: None if features is None else frozenset(features))
        chosen = choose(manifest(fp32=GOOD, int8=GOOD), variant=variant)
        assert chosen.engine == "onnxruntime"
        assert chosen.reasons[0] == (
            "engine onnxruntime: taken before openvino, since exports are checked on it, it starts faster and holds half the memory"
        )

    def test_is_the_doctors_answer_too(self):
        auto = doctor.diagnose().auto
        assert auto.startswith("int8 on onnxruntime, then fp32 on onnxruntime: the first that the bundle contains")
        assert auto.count("taken before openvino") == 1

    def test_is_among_those_installed(self, manifest, monkeypatch):
        install(monkeypatch, "onnxruntime")
        chosen = choose(manifest(fp32=GOOD, int8=GOOD))
        assert chosen.engine == "onnxruntime"
        assert "the only one installed" in chosen.reasons[0]

    def test_is_among_those_that_the_variant_is_for(self, manifest):
        other = replace(GOOD, engines=("openvino",))
        for chosen in (choose(manifest(fp32=GOOD, int8=other)), choose(manifest(fp32=GOOD, int8=other), variant="int8")):
            assert (chosen.engine, chosen.variant) == ("openvino", "int8")
            assert "the only one installed that computes int8 of this bundle" in chosen.reasons[0]

    def test_never_is_a_gpu(self, manifest):
        assert choose(manifest(fp32=GOOD, fp16=GOOD)).engine in choice.CPU_ENGINES

    def test_is_not_the_cpu_provider_of_the_gpu_wheel(self, manifest, monkeypatch):
        install(monkeypatch, "onnxruntime-gpu")
        with pytest.raises(UsageError, match=r"name engine='cuda', or engine='onnxruntime' for the CPU, or run: pip uninstall"):
            choose(manifest(fp32=GOOD, int8=GOOD))
        assert choose(manifest(fp32=GOOD), engine="onnxruntime").engine == "onnxruntime"
        install(monkeypatch, "onnxruntime-gpu", "openvino")
        assert choose(manifest(fp32=GOOD)).engine == "openvino"
        install(monkeypatch, "onnxruntime-gpu", "onnxruntime")
        assert choose(manifest(fp32=GOOD)).engine == "onnxruntime"

    def test_bf16_is_the_fp32_file_on_openvino(self, manifest, monkeypatch):
        monkeypatch.setattr(choice, "cpu_features", lambda: frozenset({"avx512_vnni", "avx512_bf16"}))
        assert choose(manifest(fp32=GOOD), variant="bf16").engine == "openvino"
        with pytest.raises(UsageError, match="variant bf16 is for openvino, not for onnxruntime"):
            choose(manifest(fp32=GOOD), engine="onnxruntime", variant="bf16")
        with pytest.raises(UsageError, match="no variant 'fp32', it has int8; export it with --fp32"):
            choose(manifest(int8=GOOD), variant="bf16")

    @pytest.mark.parametrize("features", [frozenset({"avx512f", "avx512_vnni"}), frozenset({"asimddp"})])
    def test_bf16_is_refused_where_the_cpu_lacks_it(self, manifest, monkeypatch, features):
        monkeypatch.setattr(choice, "cpu_features", lambda: features)
        with pytest.raises(EngineError, match="bf16 needs a CPU that computes bf16 .*, which this one lacks; use fp32 or int8"):
            choose(manifest(fp32=GOOD), variant="bf16")

    def test_bf16_is_never_what_auto_takes(self, manifest, monkeypatch):
        """No export records its parity, so nothing shows that it holds for this bundle."""
        monkeypatch.setattr(choice, "cpu_features", lambda: frozenset({"avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}))
        assert choose(manifest(fp32=GOOD), engine="openvino").variant == "fp32"
        assert all("bf16" not in kind.variants for kind in choice.ENGINES.values())

    def test_bf16_without_openvino_names_the_extra(self, manifest, monkeypatch):
        install(monkeypatch, "onnxruntime")
        with pytest.raises(UsageError, match=r"variant bf16 is for openvino, not for onnxruntime; .*pip install cls-export\[openvino\]"):
            choose(manifest(fp32=GOOD), variant="bf16")

    def test_tf32_is_the_fp32_file_on_a_gpu_and_by_name_alone(self, manifest, monkeypatch):
        install(monkeypatch, "onnxruntime", "openvino")
        chosen = choose(manifest(fp32=GOOD), engine="cuda", variant="tf32")
        assert (chosen.engine, chosen.variant, choice.graph_variant("tf32")) == ("cuda", "tf32", "fp32")
        assert choose(manifest(fp32=GOOD), engine="cuda").variant == "fp32"
        assert all("tf32" not in kind.variants for kind in choice.ENGINES.values())
        for engine in ("onnxruntime", "openvino"):
            with pytest.raises(UsageError, match=f"variant tf32 is for cuda, not for {engine}"):
                choose(manifest(fp32=GOOD), engine=engine, variant="tf32")
        with pytest.raises(UsageError, match="variant tf32 is for cuda, not for onnxruntime, openvino; .*, or name engine='cuda'"):
            choose(manifest(fp32=GOOD), variant="tf32")
        with pytest.raises(UsageError, match="no variant 'fp32', it has int8; export it with --fp32"):
            choose(manifest(int8=GOOD), engine="cuda", variant="tf32")


def test_a_folder_of_the_packages_name_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "engine_that_is_not_there").mkdir()
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_importable("engine_that_is_not_there")
    assert not is_importable("nor_is_this_engine")
    assert is_importable("numpy")


def test_the_engines_of_auto_take_the_same_variants():
    """So the variant is chosen first, by the first engine's list, and then the engine among those that compute it."""
    assert [choice.ENGINES[name].variants for name in choice.CPU_ENGINES] == [("int8", "fp32")] * 3
    assert choice.CPU_ENGINES == ("native", "onnxruntime", "openvino")


def test_every_engine_of_the_table_has_a_contract_name():
    assert set(choice.ENGINES) <= set(choice.ENGINE_NAMES) - {"auto"}
    for name in choice.ENGINES:
        assert callable(choice.engine_module(name).load)
        kind = choice.ENGINES[name]
        assert set(kind.variants) <= set(kind.by_name) <= set(choice.VARIANT_NAMES) - {"auto"}


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_a_missing_engine_names_the_pip_command(manifest, monkeypatch, engine):
    install(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"pip install cls-export\[cpu\]") as caught:
        choose(manifest(fp32=GOOD), engine=engine)
    assert caught.value.exit_code == 2


class TestInstallation:
    def pretend(self, monkeypatch, *wheels):
        monkeypatch.setattr(onnxruntime, "is_installed", wheels.__contains__)

    def test_both_wheels_are_said(self, monkeypatch, bundle):
        self.pretend(monkeypatch, "onnxruntime", "onnxruntime-gpu")
        with pytest.warns(InstallationWarning, match="onnxruntime and onnxruntime-gpu are both installed and overwrite each other"):
            Encoder.load(bundle, threads=1).close()

    @pytest.mark.parametrize("wheel", ["onnxruntime", "onnxruntime-gpu"])
    def test_one_wheel_is_not(self, monkeypatch, bundle, wheel):
        self.pretend(monkeypatch, wheel)
        with warnings.catch_warnings(record=True) as caught:
            Encoder.load(bundle, threads=1).close()
        assert caught == []

    def test_no_wheel(self, monkeypatch, bundle):
        self.pretend(monkeypatch)
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingExtraError, match=r"run: pip install cls-export\[cpu\]"):
            onnxruntime.load(Bundle.open(bundle), variant="fp32", threads=1)

    def test_a_broken_wheel(self, monkeypatch, bundle):
        self.pretend(monkeypatch, "onnxruntime")
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(EngineError, match="onnxruntime is installed but cannot be imported"):
            onnxruntime.load(Bundle.open(bundle), variant="fp32", threads=1)

    def test_an_empty_module_left_behind_by_the_other_wheel(self, monkeypatch, bundle):
        """`pip uninstall` of one of two wheels takes files of the other along: what is left imports, and has nothing in it."""
        self.pretend(monkeypatch, "onnxruntime")
        left = types.ModuleType("onnxruntime")
        monkeypatch.setitem(sys.modules, "onnxruntime", left)
        with pytest.raises(EngineError, match="onnxruntime is installed but broken"):
            onnxruntime.load(Bundle.open(bundle), variant="fp32", threads=1)


def test_a_failing_run_is_an_engine_error(bundle):
    engine = onnxruntime.load(Bundle.open(bundle), variant="fp32", threads=1)
    unknown_token = TokenizedTexts.of([[10_000]], [[0]]).batch(np.array([0]), pad_id=0)
    with pytest.raises(EngineError, match=r"ONNX Runtime failed on a batch of shape \(1, 1\)") as caught:
        engine.run(unknown_token, ["sentence_embedding"])
    assert "\n" not in str(caught.value)
    engine.close()
    engine.close()


def test_an_engine_that_was_taken_out_says_so_and_what_to_use(bundle):
    manifest = Bundle.open(bundle).manifest
    with pytest.raises(UsageError, match=r"engine tensorrt was taken out, .*; use engine 'cuda'") as caught:
        choice.choose(manifest, engine="tensorrt")
    assert "\n" not in str(caught.value)
    assert not choice.TAKEN_OUT.keys() & choice.ENGINES.keys()

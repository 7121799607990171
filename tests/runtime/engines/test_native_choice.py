"""When the native engine is taken: by `auto`, by name, and what is said where it is not. Nothing here loads it."""

import dataclasses

import pytest
from bundle_builder import EXACT

from cls_runtime import BundleError, MissingExtraError, UsageError, doctor
from cls_runtime.bundle.manifest import BundleFile, EngineParity, Variant, read_manifest
from cls_runtime.engines import choice, preference
from cls_runtime.engines.choice import choose
from cls_runtime.engines.native.library import Kernels
from cls_runtime.engines.needed_files import graph_files
from cls_runtime.verifying.plan import combinations

GRAPH = BundleFile(path="onnx/model.onnx", sha256="0" * 64, size_bytes=1)
WEIGHTS = BundleFile(path="native/weights.safetensors", sha256="1" * 64, size_bytes=1)
OWN = EngineParity(parity={"cls": EXACT}, batch_invariance_max_abs=0.0)
PLAIN = Variant(files=(GRAPH,), recipe={}, parity={"cls": EXACT}, batch_invariance_max_abs=0.0)
NATIVE = dataclasses.replace(PLAIN, engines=("native", *PLAIN.engines), engine_files={"native": (WEIGHTS,)}, engine_parity={"native": OWN})


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Says what is installed; at first, the native engine and ONNX Runtime, on a CPU with VNNI."""

    def install(*packages, features=("avx2", "avx512_vnni")):
        monkeypatch.setattr(choice, "is_importable", packages.__contains__)
        monkeypatch.setattr(choice, "is_installed", packages.__contains__)
        for module in (choice, preference):
            monkeypatch.setattr(module, "cpu_features", lambda: None if features is None else frozenset(features))

    install("cls_export_native", "onnxruntime")
    return install


@pytest.fixture
def manifest(bundle):
    held = read_manifest(bundle)
    return lambda **variants: dataclasses.replace(held, variants=variants, fingerprint="")


def test_auto_takes_it_where_it_is_installed_and_holds(manifest):
    chosen = choose(manifest(fp32=NATIVE, int8=NATIVE))
    assert (chosen.engine, chosen.variant) == ("native", "int8")
    assert chosen.reasons[0] == (
        "engine native: taken before onnxruntime, since it was measured faster on CPUs with avx512_vnni, and its vectors are the same bits "
        "on every machine"
    )
    assert choose(manifest(fp32=NATIVE, int8=NATIVE), variant="fp32").engine == "native"


def test_auto_takes_it_alone(manifest, installed):
    installed("cls_export_native", features=None)
    chosen = choose(manifest(fp32=NATIVE))
    assert (chosen.engine, chosen.variant) == ("native", "fp32")
    assert "the only one installed that computes fp32" in chosen.reasons[0]


@pytest.mark.parametrize(
    "entry",
    [
        PLAIN,
        dataclasses.replace(NATIVE, engine_files={}),
        dataclasses.replace(NATIVE, engine_files={"native": ()}),
        dataclasses.replace(NATIVE, engines=PLAIN.engines),
        dataclasses.replace(NATIVE, engine_parity={}),
        dataclasses.replace(NATIVE, engine_parity={"native": dataclasses.replace(OWN, batch_invariance_max_abs=1e-9)}),
        dataclasses.replace(
            NATIVE, engine_parity={"native": dataclasses.replace(OWN, parity={"cls": dataclasses.replace(EXACT, min_cosine=0.9989)})}
        ),
    ],
    ids=["no weights", "no file", "an empty list of files", "another engine's", "no figures", "the batch counts", "a figure misses"],
)
def test_auto_takes_onnxruntime_where_the_bundle_is_not_for_it(manifest, entry):
    chosen = choose(manifest(int8=entry))
    assert (chosen.engine, chosen.variant) == ("onnxruntime", "int8")
    assert "the only one installed that computes int8 of this bundle" in chosen.reasons[0]


def test_figures_of_the_graph_do_not_hold_it_back(manifest):
    """The graph's int8 misses, the native weights hold."""
    poor = dataclasses.replace(NATIVE, parity={"cls": dataclasses.replace(EXACT, mean_cosine=0.9)}, cpu_features=("avx512_vnni",))
    assert choose(manifest(int8=poor, fp32=PLAIN)).engine == "native"
    installed_only_graph = choose(manifest(int8=dataclasses.replace(poor, engine_files={}), fp32=PLAIN))
    assert (installed_only_graph.engine, installed_only_graph.variant) == ("onnxruntime", "fp32")


def test_what_the_graph_assumes_of_a_cpu_is_nothing_to_it(manifest, installed):
    installed("cls_export_native", "onnxruntime", features=("avx2",))
    needs = dataclasses.replace(NATIVE, cpu_features=("avx512_vnni",))
    assert choose(manifest(int8=needs)).engine == "native"
    assert choose(manifest(int8=needs), engine="native", variant="int8").engine == "native"


@pytest.mark.parametrize(
    ("features", "kind"), [(("avx2", "avx512_vnni"), "avx512_vnni"), (("avx2", "avx_vnni"), "avx_vnni"), (("asimd", "asimddp"), "asimddp")]
)
def test_what_was_measured_is_looked_up_by_the_kind_of_cpu(manifest, installed, monkeypatch, features, kind):
    installed("cls_export_native", "onnxruntime", features=features)
    monkeypatch.setitem(preference.NATIVE_IS_FASTER, kind, ("int8", "fp32"))
    assert f"on CPUs with {kind}," in choose(manifest(int8=NATIVE)).reasons[0]
    monkeypatch.setitem(preference.NATIVE_IS_FASTER, kind, ("fp32",))
    chosen = choose(manifest(fp32=NATIVE, int8=NATIVE))
    assert (chosen.engine, chosen.variant) == ("onnxruntime", "int8")
    assert chosen.reasons[0] == f"engine onnxruntime: native was not measured faster for int8 on CPUs with {kind}"
    assert choose(manifest(fp32=NATIVE, int8=NATIVE), variant="fp32").engine == "native"


@pytest.mark.parametrize("features", [("sse2",), ("avx2", "avx_vnni"), ("asimd", "asimddp"), None])
def test_on_a_cpu_that_nobody_measured_onnxruntime_is_taken(manifest, installed, features):
    installed("cls_export_native", "onnxruntime", "openvino", features=features)
    chosen = choose(manifest(int8=NATIVE))
    assert chosen.engine == "onnxruntime"
    assert "native was not measured faster for int8 on CPUs with none of avx512_vnni" in chosen.reasons[0]
    assert "taken before openvino" in chosen.reasons[0]


def test_without_it_everything_is_as_before(manifest, installed):
    installed("onnxruntime")
    assert choose(manifest(int8=NATIVE)).engine == "onnxruntime"
    with pytest.raises(MissingExtraError, match=r"engine native needs cls_export_native; run: pip install cls-export\[native\]"):
        choose(manifest(int8=NATIVE), engine="native")


def test_by_name(manifest):
    chosen = choose(manifest(fp32=NATIVE, int8=PLAIN), engine="native")
    assert (chosen.engine, chosen.variant) == ("native", "fp32")
    with pytest.raises(
        UsageError, match=r"variant int8 is for onnxruntime, openvino, not for native; the bundle has no native weights of it"
    ):
        choose(manifest(fp32=NATIVE, int8=PLAIN), engine="native", variant="int8")
    with pytest.raises(UsageError, match="variant fp16 is for onnxruntime, openvino, cuda, not for native; choose another"):
        choose(manifest(fp16=PLAIN), engine="native", variant="fp16")
    with pytest.raises(BundleError, match=r"no weights for engine native: choose another engine .*, or export it again"):
        choose(manifest(fp32=PLAIN), engine="native")
    with pytest.raises(BundleError, match=r"no variant for native .*; the bundle has int8, name one"):
        choose(manifest(int8=dataclasses.replace(NATIVE, engine_parity={})), engine="native")


@pytest.mark.parametrize("variant", ["auto", "int8"])
def test_alone_with_a_bundle_that_has_no_weights_the_command_is_named(manifest, installed, variant):
    installed("cls_export_native")
    with pytest.raises(
        MissingExtraError, match=r"no weights for engine native, and no other engine is installed; run: pip install cls-export\[cpu\]"
    ):
        choose(manifest(int8=PLAIN), variant=variant)
    with pytest.raises(UsageError, match=r"run: pip install cls-export\[cpu\]"):
        choose(manifest(int8=PLAIN, fp32=NATIVE), variant="int8")


def test_beside_the_gpus_wheel_it_is_what_auto_takes(manifest, installed):
    installed("cls_export_native", "onnxruntime-gpu")
    assert choose(manifest(int8=NATIVE)).engine == "native"


def test_its_own_file_is_what_is_fetched(manifest):
    held = manifest(int8=NATIVE)
    assert graph_files(held, variant="int8", engine="native") == (WEIGHTS,)
    assert graph_files(held, variant="int8", engine="onnxruntime") == (GRAPH,)


def test_it_is_checked_for_the_variants_that_it_has(manifest, monkeypatch):
    held = manifest(fp32=PLAIN, int8=NATIVE, fp16=PLAIN)
    planned = {(item.variant, item.engine): item.objection for item in combinations(held)}
    assert ("int8", "native") in planned
    assert {variant for variant, engine in planned if engine == "native"} == {"int8"}
    assert {variant for variant, engine in planned if engine == "onnxruntime"} == {"fp32", "int8", "fp16"}
    named = {item.variant: item.objection for item in combinations(held, engines=["native"])}
    assert named["int8"] is None
    assert "not for native" in named["fp32"]
    assert [item.engine for item in combinations(held, variants=["auto"], engines=["auto"])] == ["native"]
    assert {item.engine for item in combinations(manifest(int8=PLAIN), variants=["auto"])} == {"onnxruntime"}


def test_without_it_it_is_not_planned(manifest, installed):
    installed("onnxruntime")
    assert {item.engine for item in combinations(manifest(fp32=NATIVE, int8=NATIVE))} == {"onnxruntime"}


class TestDoctor:
    def test_it_says_what_auto_takes_with_and_without_weights(self):
        auto = doctor.diagnose().auto
        assert auto.startswith(
            "int8 on native, then fp32 on native: the first that the bundle contains and that passed its checks (engine native"
        )
        assert "; without native weights in the bundle: int8 on onnxruntime, then fp32 on onnxruntime: the first" in auto

    def test_it_says_what_to_install_where_it_is_alone(self, installed):
        installed("cls_export_native")
        assert doctor.diagnose().auto.endswith("; without native weights in the bundle: none: run: pip install cls-export[cpu]")

    def test_kernels_that_differ_are_a_warning(self, monkeypatch):
        found = Kernels(all=("avx2", "portable"), usable=("portable",), differing=("avx2: norm",))
        monkeypatch.setattr(doctor, "kernels", lambda: found)
        assert "engine native: the kernels avx2: norm; they are not used, report it with this output" in doctor.diagnose().warnings

    def test_a_library_that_is_missing_is_told(self, monkeypatch):
        def missing():
            raise MissingExtraError("cls-export-native is not installed; run: pip install cls-export[native]")

        monkeypatch.setattr(doctor, "native_probe", missing)
        monkeypatch.setattr(doctor, "kernels", missing)
        found = doctor.diagnose()
        (native,) = (engine for engine in found.engines if engine.name == "native")
        assert (native.works, native.detail) == (False, "cls-export-native is not installed; run: pip install cls-export[native]")
        assert found.problems == ()

"""The plugin in pytest runs of its own, on sound and on damaged bundles."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from damage import DAMAGES, build_damageable

# Imported here, and with it all that the plugin imports when it is used: pytester forgets what a run of its own imported.
import cls_runtime.pytest_plugin
import cls_runtime.verifying.verification
from cls_runtime.verifying import plan as check_plan

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytest_plugins = ["pytester"]
SERVICE = """
    import pytest

    def test_service(cls_encoder, assert_same_vectors, cls_bundle):
        texts = ["the cat", "", "a dog"]
        rows = cls_encoder.encode(texts)
        assert rows.shape == (3, 8)
        assert_same_vectors(rows.tolist(), rows, texts=texts)
        assert cls_encoder.manifest.source.name == "tiny"
        assert (cls_bundle / "cls_export.json").exists()
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Read-only by agreement."""
    return build_damageable(tmp_path_factory.mktemp("plugin") / "tiny")


@pytest.fixture
def run(pytester, monkeypatch):
    """pytest with this plugin and no other, whether or not the package is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(*arguments):
        return pytester.runpytest_inprocess("-p", "cls_runtime.pytest_plugin", *map(str, arguments))

    return run


def test_a_service_tests_itself_and_its_bundle(pytester, run, sound):
    pytester.makepyfile(SERVICE)
    result = run("--cls-bundle", sound, "--cls-engine", "onnxruntime", "-v")
    result.assert_outcomes(passed=1 + 2 + 2 * 8)
    result.stdout.fnmatch_lines(["*tiny::files PASSED*", "*tiny::int8 onnxruntime golden cls PASSED*"])
    assert result.ret == 0


def test_a_bundle_alone_is_a_run(run, sound):
    result = run("--cls-bundle", sound, "--cls-variant", "fp32", "--cls-engine", "onnxruntime")
    result.assert_outcomes(passed=2 + 8)
    assert result.ret == 0


def test_without_the_option_nothing_is_added(pytester, run):
    pytester.makepyfile("def test_other(): pass")
    run().assert_outcomes(passed=1)


def test_checks_can_be_chosen_like_any_test(pytester, run, sound):
    pytester.makepyfile("def test_other(): pass")
    run("--cls-bundle", sound, "-k", "int8 and golden and pooler and onnxruntime").assert_outcomes(passed=1, deselected=None)
    run("--cls-bundle", sound, "-m", "not cls_bundle").assert_outcomes(passed=1, deselected=None)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_fails_the_suite_and_is_named(run, sound, pytester, kind):
    folder = shutil.copytree(sound, pytester.path / "models" / "damaged")
    damage = DAMAGES[kind]
    damage.do(folder)
    result = run("--cls-bundle", "models/damaged", "--cls-engine", "onnxruntime")
    assert result.ret == 1
    output = result.stdout.str()
    assert "bundle " in output
    assert damage.message in output
    assert "Traceback" not in output
    assert "pytest_plugin.py" not in output


def test_a_changed_file_fails_the_suite(run, sound, pytester):
    folder = shutil.copytree(sound, pytester.path / "damaged")
    path = folder / "tokenizer_config.json"
    path.write_bytes(path.read_bytes().replace(b"PreTrained", b"PostTrain_"))
    result = run("--cls-bundle", folder, "-k", "files")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*bundle *damaged: 1 of * files are not the ones that were exported*tokenizer_config.json*"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cls-bundle", "none"), "bundle none does not exist"),
        (("--cls-bundle", "{sound}", "--cls-variant", "fp16"), "has no variant 'fp16', it has fp32, int8"),
        (("--cls-bundle", "{sound}", "--cls-engine", "warp"), "engine is 'warp', expected one of auto, onnxruntime"),
        (("--cls-bundle", "{sound}", "--cls-device", "1"), "device is '1' and engine is 'auto', expected engine 'cuda'"),
        (("--cls-bundle", "{sound}", "--cls-engine", "tensorrt"), "engine tensorrt was taken out"),
    ],
)
def test_a_bundle_that_cannot_be_checked_fails_the_suite(run, sound, arguments, message):
    result = run(*(argument.format(sound=sound) for argument in arguments))
    result.assert_outcomes(failed=1)
    assert message in result.stdout.str()


def test_what_this_machine_cannot_run_is_skipped_with_the_reason(run, sound, monkeypatch):
    real = check_plan._combination

    def refuse_int8(manifest, variant, engine):
        if variant == "int8":
            return check_plan.Combination(variant=variant, engine=engine, objection="no such CPU")
        return real(manifest, variant, engine)

    monkeypatch.setattr(check_plan, "_combination", refuse_int8)
    monkeypatch.setattr(check_plan, "installed_engines", lambda: ("onnxruntime",))
    result = run("--cls-bundle", sound, "-rs")
    result.assert_outcomes(passed=2 + 8, skipped=1)
    result.stdout.fnmatch_lines(["*no such CPU*"])


def test_the_fixtures_without_a_bundle_are_an_error_not_a_skip(pytester, run):
    pytester.makepyfile(SERVICE)
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no bundle to test; run pytest with --cls-bundle DIR*"])


def test_other_vectors_fail_and_the_worst_text_is_named(pytester, run):
    pytester.makepyfile(
        """
        import numpy as np

        RIGHT = np.eye(3, 4, dtype=np.float32) + 1
        WRONG = RIGHT + np.array([[0, 0, 0, 0], [0, 0, 0, 0.01], [0, 0, 0, 0]], dtype=np.float32)

        def test_named(assert_same_vectors):
            assert_same_vectors(WRONG, RIGHT, texts=["a", "the middle", "c"])

        def test_unnamed(assert_same_vectors):
            assert_same_vectors(WRONG, RIGHT)

        def test_looser(assert_same_vectors):
            assert_same_vectors(WRONG, RIGHT, variant="bf16")

        def test_shape(assert_same_vectors):
            assert_same_vectors(WRONG[:2], RIGHT)

        def test_nan(assert_same_vectors):
            assert_same_vectors(RIGHT * np.nan, RIGHT, variant="int8")
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=4)
    output = result.stdout.str()
    assert "max_abs 0.01, expected at most 5e-05; worst is text 1 'the middle': cosine 0.9999" in output
    assert "worst is row 1: cosine 0.9999" in output
    assert "vectors have shapes (2, 4) and (3, 4), expected two equal" in output
    assert "mean_cosine -1.00000000, expected at least 0.999" in output


def test_loading_the_plugin_loads_neither_numpy_nor_an_engine():
    program = (
        "import sys, pytest; import cls_runtime.pytest_plugin\n"
        "print(*{'numpy', 'tokenizers', 'onnxruntime', 'openvino', 'torch', 'cls_runtime.encoder'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    done = subprocess.run([sys.executable, "-c", program.replace("print", "cls_runtime.Encoder; print")], capture_output=True, text=True)
    assert "numpy" in done.stdout.split()  # the line above can fail


def test_pytest_finds_the_plugin_where_the_package_is_installed():
    """The entry point names the module; pytest loads it by that."""
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    (module,) = project["entry-points"]["pytest11"].values()
    assert importlib.import_module(module) is cls_runtime.pytest_plugin

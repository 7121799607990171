"""What a served model tells of the files that its engine reads."""

from pathlib import Path

from bundle_builder import build_bundle
from native_bundle import NAMES, add_native
from native_library import needs_native

from cls_runtime import Bundle, Encoder
from cls_runtime.encoding.options import EncoderOptions
from cls_runtime.engines import onnxruntime
from cls_runtime.serving.models import ServedModel
from cls_runtime.serving.pages import start_page


@needs_native
def test_the_size_is_that_of_what_the_engine_reads(tmp_path: Path) -> None:
    folder = add_native(build_bundle(tmp_path / "bundle"))
    with Encoder.load(folder, engine="native", variant="fp32", threads=1) as encoder:
        model = ServedModel(names=("it",), encoder=encoder, loaded_at=0)
        assert model.document["graph_bytes"] == (folder / NAMES["fp32"]).stat().st_size


def test_a_variant_that_the_engine_makes_has_the_files_of_its_graph_and_no_figures(tmp_path: Path) -> None:
    bundle = Bundle.open(build_bundle(tmp_path / "bundle"))
    engine = onnxruntime.load(bundle, variant="fp32", threads=1)
    with Encoder.of(bundle, engine, EncoderOptions(variant="bf16")) as encoder:
        model = ServedModel(names=("it",), encoder=encoder, loaded_at=0)
        assert model.document["graph_bytes"] == bundle.manifest.variants["fp32"].files[0].size_bytes
        assert start_page._parity(model) == ""

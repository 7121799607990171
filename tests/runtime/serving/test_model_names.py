"""What the bundles of a server are called: each name is one bundle's, whatever else a bundle is called."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from served import Served

from cls_runtime.errors import UsageError


def test_a_name_that_two_bundles_have_beside_their_own_is_neither_s(
    serve: Callable[..., Served], bundle: Path, trained: Path, tmp_path: Path
) -> None:
    """The checkpoint of both is called `tiny`: who asks for that would get vectors of the one or the other."""
    alone = serve(trained)
    assert [item["id"] for item in alone.get("/v1/models").json["data"]] == ["trained", "tiny"]
    both = serve(trained, Path(shutil.copytree(bundle, tmp_path / "other")))
    assert [item["id"] for item in both.get("/v1/models").json["data"]] == ["trained", "other"]
    answer = both.post("/v1/embeddings", {"input": "a", "model": "tiny"})
    assert answer.status == 404
    assert answer.json["error"]["code"] == "model_not_found"
    for name in ("trained", "other"):
        answer = both.post("/v1/embeddings", {"input": "a", "model": name})
        assert answer.headers["x-cls-fingerprint"] == both.service.models.find(name).fingerprint


def test_a_bundle_s_own_name_is_its_own_wherever_it_stands(serve: Callable[..., Served], bundle: Path, trained: Path) -> None:
    """`trained` is a checkpoint called `tiny`, and `bundle` is a folder of that name."""
    for order in ((trained, bundle), (bundle, trained)):
        server = serve(*order)
        assert server.get("/v1/models/tiny").json["id"] == "tiny"
        assert server.service.models.find("tiny").encoder.bundle.folder == bundle
        assert {model.name: model.names for model in server.service.models.all} == {"trained": ("trained",), "tiny": ("tiny",)}


def test_two_bundles_of_one_name_are_refused(serve: Callable[..., Served], bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two bundles are called 'tiny'"):
        serve(bundle, Path(shutil.copytree(bundle, tmp_path / "tiny")))


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/models//"])
def test_no_name_is_no_model(served: Served, path: str) -> None:
    assert served.get(path).status == 404

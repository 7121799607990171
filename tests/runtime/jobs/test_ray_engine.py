"""The same job on Ray: the same bytes, on a local Ray and on a cluster that loses a node."""

import contextlib
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from cls_runtime.bundle.files import PART
from cls_runtime.jobs.job_manifest import JobState

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def ray():
    """Ray, shut down whatever happens."""
    module = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    yield module
    module.shutdown()


@pytest.fixture
def parquet_corpus(tmp_path, make_texts):
    """Writes rows into three Parquet files of unequal length."""

    def write(rows):
        (tmp_path / "in").mkdir()
        texts = make_texts(rows)
        for start, stop in ((0, rows // 5), (rows // 5, rows // 2), (rows // 2, rows)):
            table = pa.table({"text": texts[start:stop], "n": range(start, stop)})
            parquet.write_table(table, tmp_path / "in" / f"{start:09}.parquet", row_group_size=3000)
        return tmp_path / "in"

    return write


def test_a_local_ray_writes_the_same_bytes_and_is_stopped(ray, bundle, parquet_corpus, tmp_path, run, shard_bytes, capsys):
    corpus = parquet_corpus(20_000)
    arguments = (bundle, corpus, "--id-column", "n", "--shard-rows", 3000, "--prompt", "the cat, ", "--dtype", "uint8")
    assert run(*arguments, "-o", tmp_path / "here") == 0
    capsys.readouterr()
    assert run(*arguments, "-o", tmp_path / "ray", "--engine", "ray", "--threads", 1, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["texts"], document["shards"]) == (20_000, 7)
    assert not ray.is_initialized()
    assert shard_bytes(tmp_path / "ray") == shard_bytes(tmp_path / "here")
    # Either engine goes on with the other's job.
    (tmp_path / "ray" / "part-000000003000.parquet").unlink()
    assert run(*arguments, "-o", tmp_path / "ray") == 0
    assert shard_bytes(tmp_path / "ray") == shard_bytes(tmp_path / "here")


def test_a_bad_row_on_a_worker_is_one_line(ray, bundle, tmp_path, run, capsys):
    parquet.write_table(pa.table({"text": ["cat", None]}), tmp_path / "in.parquet")
    assert run(bundle, tmp_path / "in.parquet", "-o", tmp_path / "out", "--engine", "ray", "--threads", 1) == 2
    error = capsys.readouterr().err
    assert "in.parquet row 2: 'text' is null" in error
    assert "Traceback" not in error
    assert run(bundle, tmp_path / "in.parquet", "-o", tmp_path / "out", "--engine", "ray", "--threads", 1, "--on-error", "skip") == 0
    assert json.loads((tmp_path / "out" / "_skipped.jsonl").read_text())["row"] == 1


def test_no_cluster_at_the_address(ray, bundle, tmp_path, run, capsys):
    parquet.write_table(pa.table({"text": ["cat"]}), tmp_path / "in.parquet")
    code = run(bundle, tmp_path / "in.parquet", "-o", tmp_path / "out", "--engine", "ray", "--ray-address", "127.0.0.1:1")
    assert code == 2
    assert "no Ray at 127.0.0.1:1" in capsys.readouterr().err


def test_a_cluster_of_two_nodes_of_which_one_is_killed(
    ray, bundle, parquet_corpus, tmp_path, run, shard_bytes, leftovers, capsys, monkeypatch
):
    from ray.cluster_utils import Cluster

    corpus = parquet_corpus(60_000)
    arguments = (bundle, corpus, "--id-column", "n", "--shard-rows", 1000)
    assert run(*arguments, "-o", tmp_path / "here") == 0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        doomed = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        out = tmp_path / "out"
        save, killed_after = JobState.save, []

        def save_and_kill(state, folder):
            """The job waits here, with the fifth of 60 shards in its hand, until the node is gone."""
            save(state, folder)
            if len(state.shards) == 5:
                cluster.remove_node(doomed, allow_graceful=False)
                killed_after.append(len(state.shards))

        monkeypatch.setattr(JobState, "save", save_and_kill)
        code = run(*arguments, "-o", out, "--engine", "ray", "--ray-address", cluster.address, "--threads", 1, "--ray-workers", 2)
        assert code == 0, capsys.readouterr().err
        assert killed_after == [5]
        assert shard_bytes(out) == shard_bytes(tmp_path / "here")
        # If the worker was writing when it died, that is left under a hidden name, until the next run.
        assert all(name.endswith(PART) for name in leftovers(out))
        assert run(*arguments, "-o", out) == 0
        assert leftovers(out) == []
        assert shard_bytes(out) == shard_bytes(tmp_path / "here")
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
        cluster.shutdown()

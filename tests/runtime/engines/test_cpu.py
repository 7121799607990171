import os

import pytest

from cls_runtime.engines import cpu


def group(tmp_path, files, membership):
    mount = tmp_path / "cgroup"
    for name, text in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    return cpu.cgroup_cpu_quota(mount=mount, membership=tmp_path / "membership")


@pytest.mark.parametrize(
    ("files", "membership", "quota"),
    [
        pytest.param({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5, id="v2"),
        pytest.param({"cpu.max": "max 100000\n"}, "0::/\n", None, id="v2 without a limit"),
        pytest.param({"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, "0::/a/b\n", 2.0, id="v2 parent is tighter"),
        pytest.param({"a/b/cpu.max": "100000 100000", "a/cpu.max": "200000 100000"}, "0::/a/b\n", 1.0, id="v2 child is tighter"),
        pytest.param({"cpu.max": "300000 100000"}, "0::/host/path/not/visible\n", 3.0, id="v2 path of the host"),
        pytest.param({"cpu.max": "300000 100000"}, "0::/../../other\n", 3.0, id="v2 path outside the namespace"),
        pytest.param({"unified/cpu.max": "50000 100000"}, "0::/\n", 0.5, id="hybrid"),
        pytest.param({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/\n", 2.5, id="v1"),
        pytest.param(
            {"cpu,cpuacct/d/cpu.cfs_quota_us": "50000", "cpu,cpuacct/d/cpu.cfs_period_us": "100000"},
            "5:memory:/x\n4:cpu,cpuacct:/d\n",
            0.5,
            id="v1 mounted together",
        ),
        pytest.param({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/\n", None, id="v1 without a limit"),
        pytest.param({"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "1"}, "3:cpuset:/\n", None, id="another controller"),
        pytest.param({"cpu.max": "much more than that"}, "0::/\n", None, id="unreadable"),
        pytest.param({"cpu.max": "100000 0"}, "0::/\n", None, id="period of zero"),
        pytest.param({}, "", None, id="nothing"),
    ],
)
def test_quota(tmp_path, files, membership, quota):
    (tmp_path / "cgroup").mkdir()
    assert group(tmp_path, files, membership) == quota


def test_no_cgroups_at_all(tmp_path):
    assert cpu.cgroup_cpu_quota(mount=tmp_path / "none", membership=tmp_path / "none") is None


@pytest.mark.parametrize(("quota", "affinity", "expected"), [(None, 8, 8), (1.5, 8, 2), (0.2, 8, 1), (16.0, 4, 4), (3.0, 8, 3)])
def test_available_is_the_smaller_of_quota_and_affinity(monkeypatch, quota, affinity, expected):
    monkeypatch.setattr(cpu, "cgroup_cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert cpu.available_cpus() == expected


def test_without_affinity_the_count_of_the_system(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(cpu, "cgroup_cpu_quota", lambda: None)
    assert cpu.available_cpus() == 1


@pytest.mark.parametrize("line", ["flags\t\t: fpu avx2 avx512_vnni\n", "Features\t: fpu avx2 avx512_vnni\n"])
def test_features(tmp_path, line):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: x\n{line}bugs\t: flags avx\n")
    assert cpu.cpu_features(cpu_info=tmp_path / "cpuinfo") == {"fpu", "avx2", "avx512_vnni"}


def test_features_are_unknown_where_the_system_does_not_tell(tmp_path):
    assert cpu.cpu_features(cpu_info=tmp_path / "none") is None

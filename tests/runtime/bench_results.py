"""A fixed set of benchmark results with round figures: two sides, of which the second is four times as fast."""

from __future__ import annotations

from cls_runtime.bench.results import (
    BenchResults,
    BundleFacts,
    ColdStart,
    Host,
    Latency,
    MatrixRate,
    Parity,
    Settings,
    SideFacts,
    TextFacts,
    Timing,
)
from cls_runtime.bench.serving_results import RateRecord, ServingRecord
from cls_runtime.bundle.manifest import ParityFigures

SLOW, FAST = "fp32 on onnxruntime", "int8 on onnxruntime"
TEXTS = 80
_ARITHMETIC = {SLOW: "fp32", FAST: "int8"}
_FACTOR = {SLOW: 4.0, FAST: 1.0}
_FIGURES = ParityFigures(texts=3, mean_cosine=0.9995, p1_cosine=0.999, min_cosine=0.999, max_abs=0.01, worst_text=1)


def _timing(side: str, kind: str, at: int | None = None, *, texts: int = TEXTS, seconds: float = 2.0, threads: int = 2) -> Timing:
    """40 texts a second where nothing else is said, 2.5 times what 4e7 multiply-adds a text take at the machine's rate."""
    return Timing(
        side=side,
        kind=kind,  # type: ignore[arg-type]
        at=at,
        threads=threads,
        texts=texts,
        tokens=10 * texts,
        padding_tokens=texts,
        batches=max(2, texts // 10),
        multiply_adds={_ARITHMETIC[side]: 40_000_000 * texts},
        seconds=(seconds * _FACTOR[side], seconds * 1.1 * _FACTOR[side], seconds * 0.9 * _FACTOR[side]),
    )


def _both(kind: str, *values: int | None, **options: float) -> list[Timing]:
    return [_timing(side, kind, at, **options) for at in values for side in (SLOW, FAST)]  # type: ignore[arg-type]


def _latency(side: str, mode: str, callers: int) -> Latency:
    """p50 of 100 ms and p99 of 149 ms times the callers."""
    samples = tuple(callers * _FACTOR[side] * (0.05 + index / 1000) for index in range(101))
    return Latency(
        side=side,
        mode=mode,  # type: ignore[arg-type]
        callers=callers,
        threads=2,
        wall_seconds=sum(samples) / callers,
        multiply_adds={_ARITHMETIC[side]: 100_000_000 * len(samples)},
        seconds=samples,
    )


def _rate(engine: str, arithmetic: str, threads: int, per_second: int) -> MatrixRate:
    return MatrixRate(engine=engine, arithmetic=arithmetic, threads=threads, multiply_adds=per_second, seconds=(1.2, 1.0, 1.1))


def _load(share: float, *, refused: int = 0) -> RateRecord:
    """100 requests a second at full capacity, each answered after 20 ms at no load and 20 ms more for each tenth."""
    rate = 100 * share
    answered = tuple(0.02 + 0.2 * share + index / 1e5 for index in range(int(rate) - refused))
    return RateRecord(
        share=share,
        rate=rate,
        seconds=1.0,
        answered_s=answered,
        answered_in_time=len(answered) - 1,
        refused_s=(0.005,) * refused,
        failed=0,
        late_p50_s=0.0,
        late_p99_s=0.001,
        generator_cpu=0.25,
    )


RESULTS = BenchResults(
    tool_version="0.1.0",
    created="2026-01-02T03:04:05+00:00",
    seconds=12.0,
    host=Host(
        system="Linux 6",
        machine="x86_64",
        cpu="Some CPU",
        cpu_features=("avx2",),
        cpus=4,
        usable_cpus=2,
        cpu_quota=2.0,
        memory_bytes=8_000_000_000,
        python="CPython 3.12.0",
        versions={"cls-export": "0.1.0"},
    ),
    bundle=BundleFacts(
        source="tiny", fingerprint="f" * 64, architecture="bert", num_layers=2, hidden_size=8, max_length=16, created="2026-01-01"
    ),
    texts=TextFacts(origin="a test", token_counts=(10,) * TEXTS, truncated=0),
    settings=Settings(threads=2, rounds=3, token_budget=1024, quick=False),
    sides=(
        SideFacts(name=SLOW, variant="fp32", engine="onnxruntime", file_bytes=4_000_000, workers=2, providers=("CPU",)),
        SideFacts(name=FAST, variant="int8", engine="onnxruntime", file_bytes=1_000_000, workers=2, providers=("CPU",)),
        SideFacts(name="bf16 on onnxruntime", variant="bf16", engine="onnxruntime", failed="this CPU cannot"),
    ),
    rates=(
        *(_rate("onnxruntime", "fp32", threads, 500_000_000 * threads) for threads in (1, 2)),
        *(_rate("onnxruntime", "int8", threads, 1_000_000_000 * threads) for threads in (1, 2)),
        *(_rate("openvino", "int8", threads, 2_000_000_000 * threads) for threads in (1, 2)),
    ),
    timings=(
        *_both("text_to_vector", None),
        *_both("model_only", None),
        *_both("length", 8, 16, seconds=1.0),
        *_both("call_size", 1, 8, texts=8, seconds=0.2),
        *_both("token_budget", 256, 1024),
        *_both("threads", 1, threads=1, seconds=4.0),
        *_both("threads", 2),
    ),
    latencies=tuple(_latency(side, mode, callers) for side in (SLOW, FAST) for mode in ("encode", "aencode") for callers in (1, 8)),
    starts=tuple(
        ColdStart(
            side=side,
            seconds=(0.5 * _FACTOR[side],) * 3,
            import_seconds=(0.1,) * 3,
            load_seconds=(0.2,) * 3,
            peak_bytes=(100_000_000,) * 3,
        )
        for side in (SLOW, FAST)
    ),
    serving=(
        ServingRecord(
            side=FAST,
            threads=1,
            cpus="pinned apart",
            ready_s=0.7,
            encode_s=(0.02,) * 5,
            aencode_per_second=110.0,
            callers=32,
            capacity=100.0,
            trivial=_load(1.5),
            trivial_capacity=9000.0,
            rates=(_load(0.2), _load(1.0), _load(1.5, refused=40)),
        ),
    ),
    parity=(
        Parity(side=SLOW, cosines=(1 - 1e-12, 1 - 1e-11, 1.0), figures=_FIGURES),
        Parity(side=FAST, cosines=(0.9999, 0.999, 0.9995), figures=_FIGURES),
    ),
)

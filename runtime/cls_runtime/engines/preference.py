"""Which of several engines that compute a variant `auto` takes on this CPU, and why, in words."""

from __future__ import annotations

from collections.abc import Sequence

from cls_runtime.engines.cpu import cpu_features

NATIVE = "native"
# Why each is taken before those behind it. ONNX Runtime and OpenVINO are nearly as fast as each other.
_WHY_FIRST = {
    "native": "it was measured faster on CPUs with {kind}, and its vectors are the same bits on every machine",
    "onnxruntime": "exports are checked on it, it starts faster and holds half the memory",
}
# The variants that the native engine was measured to compute faster than ONNX Runtime does, by what a CPU has for it, the best first; see
# docs/adr/0013-native-kernels.md. With AVX2 alone it was measured slower for many texts, others were not: there `auto` takes it where it is
# the only one.
NATIVE_IS_FASTER: dict[str, tuple[str, ...]] = {"avx512_vnni": ("int8", "fp32")}


def preferred_engine(candidates: Sequence[str], variant: str) -> tuple[str, str]:
    """The engine that `auto` takes among those that compute `variant`, which are in the order of `CPU_ENGINES`; and why."""
    engine = candidates[0]
    if len(candidates) == 1:
        return engine, f"engine {engine}: the only one installed that computes {variant} of this bundle"
    kind = _kind_of_cpu()
    if engine == NATIVE and variant not in NATIVE_IS_FASTER.get(kind, ()):
        engine, reason = preferred_engine(candidates[1:], variant)
        slower = f"{NATIVE} was not measured faster for {variant} on CPUs with {kind or 'none of ' + ', '.join(NATIVE_IS_FASTER)}"
        return engine, f"engine {engine}: {slower}" if len(candidates) == 2 else f"{reason}; {slower}"
    return engine, f"engine {engine}: taken before {', '.join(candidates[1:])}, since {_WHY_FIRST[engine].format(kind=kind)}"


def _kind_of_cpu() -> str:
    """The best of the features that the table has; "" for none."""
    features = cpu_features() or frozenset()
    return next((name for name in NATIVE_IS_FASTER if name in features), "")

"""What a benchmark measures, and how often: the thorough plan, and the quick one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cls_runtime.bundle.manifest import BundleFile, Manifest
from cls_runtime.engines.devices import GPU_ENGINES
from cls_runtime.engines.needed_files import companions, golden_files, graph_files
from cls_runtime.errors import UsageError
from cls_runtime.verifying.plan import combinations


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of everything.

    Attributes:
        texts: how many of the texts are embedded in a round, at most.
        rounds: how often each side does the whole of them; the sides take turns.
        sweep_rounds: the same for each point of the sweeps below.
        sweep_texts: how many texts each number of threads embeds, at most.
        lengths: tokens a text, for the cost of length; those over the model's maximum are left out.
        length_tokens: tokens that each length computes in a round, for each thread.
        call_sizes: texts in one call.
        token_budgets: tokens in a batch at most.
        callers: callers at once, and how many requests each sends.
        starts: how many processes are started for each side.
        rate_rounds: samples of each matrix rate.
        parity_texts: how many of the golden texts are compared, at most.
        round_seconds: what the slowest side may take for a round of one thing; with a large model there is less of everything.
        least_texts: texts of a round that are not left out even so.
        token_budget: tokens in a batch at most, where it is not varied; None for each engine's own.
        serve: whether each side is measured behind `cls-serve` too.
        serve_shares, serve_seconds: the shares of its capacity that it is loaded with, and how long each of them.
        quick: less of everything, which the report says.
    """

    texts: int
    rounds: int
    sweep_rounds: int
    sweep_texts: int
    lengths: tuple[int, ...]
    length_tokens: int
    call_sizes: tuple[int, ...]
    token_budgets: tuple[int, ...]
    callers: tuple[tuple[int, int], ...]
    starts: int
    rate_rounds: int
    parity_texts: int
    round_seconds: float
    serve_seconds: float
    serve_shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.2)
    least_texts: int = 16
    token_budget: int | None = None
    serve: bool = False
    quick: bool = False


THOROUGH = Plan(
    texts=500,
    rounds=5,
    sweep_rounds=3,
    sweep_texts=200,
    lengths=(8, 16, 32, 64, 128, 256, 512),
    length_tokens=2048,
    call_sizes=(1, 2, 4, 8, 16, 32, 64, 128),
    token_budgets=(128, 256, 512, 1024, 2048),
    callers=((1, 100), (8, 25), (32, 10)),
    starts=5,
    rate_rounds=7,
    parity_texts=10_000,
    round_seconds=1.5,
    serve_seconds=5.0,
)
QUICK = Plan(
    texts=48,
    rounds=5,
    sweep_rounds=2,
    sweep_texts=24,
    lengths=(16, 64, 256),
    length_tokens=1024,
    call_sizes=(1, 8, 32),
    token_budgets=(256, 1024),
    callers=((1, 20), (8, 3), (32, 1)),
    starts=1,
    rate_rounds=3,
    parity_texts=40,
    round_seconds=0.25,
    serve_seconds=1.0,
    serve_shares=(0.2, 0.5, 0.8, 1.2),
    quick=True,
)


@dataclass(frozen=True, kw_only=True)
class PlannedSide:
    """A variant on an engine, and the GPUs that it is to use; `objection` says why it cannot be measured here."""

    variant: str
    engine: str
    device: str | None = None
    objection: str | None = None

    @property
    def name(self) -> str:
        """What tables and records call it: `int8 on onnxruntime`."""
        return f"{self.variant} on {self.engine}"


def planned_sides(
    manifest: Manifest, *, variants: Sequence[str] | None, engines: Sequence[str] | None, device: str | None = None
) -> tuple[PlannedSide, ...]:
    """Every variant on every installed engine, or those that were named; `device` is for those that compute on GPUs.

    Raises:
        UsageError: an unknown name, a variant that the bundle lacks, or nothing that can be measured here.
        MissingExtraError: no engine is installed, or not one that was named.
        BundleError: a variant that this version does not know.
    """
    planned = tuple(
        PlannedSide(
            variant=item.variant, engine=item.engine, device=device if item.engine in GPU_ENGINES else None, objection=item.objection
        )
        for item in combinations(manifest, variants=variants, engines=engines)
    )
    if all(side.objection for side in planned):
        raise UsageError(f"nothing can be measured here: {'; '.join(f'{side.name}: {side.objection}' for side in planned)}")
    return planned


def measured_files(manifest: Manifest, *, sides: Sequence[PlannedSide]) -> Iterator[BundleFile]:
    """What has to be here to measure these sides: their graphs, and the golden vectors for their parity."""
    yield from (*companions(manifest), *golden_files(manifest))
    for side in sides:
        if side.objection is None:
            yield from graph_files(manifest, variant=side.variant, engine=side.engine)


def fitted(plan: Plan, *, seconds_per_token: float, mean_tokens: float, threads: int) -> Plan:
    """The plan with as much less of everything as the slowest side needs: it takes `seconds_per_token` with all `threads`.

    A round of one thing stays within `plan.round_seconds`, except where the plan's least takes longer.
    """
    tokens = plan.round_seconds / seconds_per_token
    texts = int(tokens / mean_tokens)
    smallest_call, smallest_budget = plan.call_sizes[:1], plan.token_budgets[:1]
    return dataclasses.replace(
        plan,
        texts=min(plan.texts, max(texts, plan.least_texts)),
        sweep_texts=min(plan.sweep_texts, max(texts, plan.least_texts)),
        length_tokens=min(plan.length_tokens, max(1, int(tokens / threads))),
        call_sizes=tuple(size for size in plan.call_sizes if size <= texts) or smallest_call,
        token_budgets=tuple(budget for budget in plan.token_budgets if budget * threads <= tokens) or smallest_budget,
    )


def thread_counts(threads: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `threads`, and `threads` itself."""
    powers = [2**power for power in range(threads.bit_length()) if 2**power < threads]
    return (*powers, threads)

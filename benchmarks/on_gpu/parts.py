"""The parts of benchmarks/gpu.py. Each gives its samples one side after another, and the script writes them as they come."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from on_gpu import sides
from on_gpu.card import held_bytes
from on_gpu.models import BERT_BASE, MINILM, SMALL_WORKS, WORKS, Model, Tokens, Work, prepared, random_lengths
from on_gpu.results import ALONE, OURS, SENTENCE_TRANSFORMERS, TORCH, Samples

from cls_runtime import Encoder
from cls_runtime.bench.turns import clocked, in_turns, seconds_in_turns
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.parity import parity_figures
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.errors import ClsError
from cls_runtime.verifying.vector_checks import as_computed

VARIANT = "fp16"
WITHOUT_GRAPHS = f"{OURS} without CUDA graphs"
# Below it a side computes another model, and its times mean nothing.
LEAST_MEAN_COSINE = 0.999
WORKERS = (1, 2, 4)
BUDGETS = (4_096, 16_384, 32_768, 65_536, 131_072)
# Square products show what the card can do, the others what a layer of bert-base asks of it.
PRODUCTS = ((8_192, 8_192, 8_192), (65_536, 768, 3_072), (65_536, 768, 768))
CALLS = 500
# Before a GPU's calls count: CUDA graphs are made by a thread beside them, which loads the graph a second time.
WARM_UP_SECONDS = 6.0
MEMORY_TEXTS = 100_000
TENTHS = 10


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all parts are told. `device` is PyTorch's word for what computes; `small` is for trying the script."""

    engine: str
    device: str
    folder: Path
    checkpoint: Path | None
    bundle: Path | None
    rounds: int
    small: bool

    def model(self, name: str) -> Model:
        """A model, whose bundle is made where it is not there."""
        return _prepared(self, name)

    @property
    def works(self) -> tuple[Work, ...]:
        """What is timed from text to vector."""
        return SMALL_WORKS if self.small else WORKS

    def short(self, model: str) -> Work:
        """The model's work with short texts."""
        return next(work for work in self.works if work.model == model)


@functools.lru_cache
def _prepared(setting: Setting, name: str) -> Model:
    return prepared(name, setting.folder, checkpoint=setting.checkpoint, bundle=setting.bundle, small=setting.small)


@functools.lru_cache
def _texts(bundle: Path, work: Work) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The work's texts, and their lengths in tokens."""
    tokens = Tokens(bundle)
    texts = tokens.texts(work.tokens, work.texts)
    return tuple(texts), tuple(tokens.lengths(texts))


def _blank(setting: Setting, work: Work, side: str, *, at: int = 0) -> Samples:
    """The record of a side at a work, without seconds."""
    bundle = setting.model(work.model).bundle
    _, lengths = _texts(bundle, work)
    formulas = Bundle.open(bundle).manifest.variants[VARIANT].multiply_adds.values()
    multiply_adds = sum(formula.count(1, length) for formula in formulas for length in lengths)
    return Samples(work=work.name, side=side, at=at, texts=len(lengths), tokens=sum(lengths), multiply_adds=multiply_adds)


def export(setting: Setting) -> Iterator[Samples]:
    """Makes both bundles, where they are not there, and says how long that took."""
    for name in (BERT_BASE, MINILM):
        seconds, _ = clocked(functools.partial(setting.model, name))
        yield Samples(work=name, side="cls-export, fp32 and fp16", seconds=(seconds,))


def limit(setting: Setting) -> Iterator[Samples]:
    """How fast matrices are multiplied here."""
    for rows, inner, columns in ((96, 96, 96),) if setting.small else PRODUCTS:
        multiply = sides.matrix_product(rows, inner, columns, device=setting.device)
        taken = seconds_in_turns({"": multiply}, rounds=20, warm_ups=3)[""]
        name = f"[{rows:,}, {inner:,}] x [{inner:,}, {columns:,}]"
        yield Samples(work=name, side="torch", multiply_adds=rows * inner * columns, seconds=taken)


def texts(setting: Setting) -> Iterator[Samples]:
    """Text to vector, all sides in turns."""
    for work in setting.works:
        model = setting.model(work.model)
        given, _ = _texts(model.bundle, work)
        tokens = Tokens(model.bundle)
        with sides.loaded(model.bundle, engine=setting.engine, variant=VARIANT) as encoder:
            reference = encoder.encode(given)
            report = encoder.last_report
            encoders: dict[str, sides.Encodes] = {OURS: encoder.encode}
            blanks = {OURS: replace(_blank(setting, work, OURS), padding_tokens=report.padding_tokens)}
            for side, load in _peers(setting, model, tokens).items():
                blank = _blank(setting, work, side)
                try:
                    encode = load()
                    mean_cosine = parity_figures(reference, encode(given)).mean_cosine
                except (ImportError, OSError, RuntimeError, TypeError, ValueError, AttributeError) as error:
                    yield replace(blank, failed=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
                    continue
                if mean_cosine < LEAST_MEAN_COSINE:
                    yield replace(blank, failed=f"another model: mean cosine {mean_cosine:.4f} to {OURS}")
                    continue
                encoders[side] = encode
                blanks[side] = replace(blank, figures={"mean_cosine": mean_cosine})
            calls = {side: functools.partial(encode, given) for side, encode in encoders.items()}
            for side, taken in seconds_in_turns(calls, rounds=setting.rounds, warm_ups=1).items():
                yield replace(blanks[side], seconds=taken)


def _peers(setting: Setting, model: Model, tokens: Tokens) -> Mapping[str, Callable[[], sides.Encodes]]:
    checkpoint = model.checkpoint
    if checkpoint is None:
        return {}
    maximum = Bundle.open(model.bundle).manifest.max_length
    return {
        SENTENCE_TRANSFORMERS: lambda: sides.sentence_transformers(checkpoint, device=setting.device, max_length=maximum),
        TORCH: lambda: sides.torch_sorted(checkpoint, tokens.tokenizer, device=setting.device),
    }


def model(setting: Setting) -> Iterator[Samples]:
    """The engine alone, on the batches that an Encoder makes, by the threads that run it at once."""
    for work in setting.works:
        bundle = setting.model(work.model).bundle
        given, _ = _texts(bundle, work)
        threads = available_cpus()
        with contextlib.ExitStack() as stack:
            engine = stack.enter_context(sides.recorded(bundle, given, engine=setting.engine, variant=VARIANT, threads=threads))
            pools = {workers: stack.enter_context(ThreadPoolExecutor(workers)) for workers in WORKERS}
            runs = {workers: functools.partial(engine.repeat, pool) for workers, pool in pools.items()}
            for workers, taken in seconds_in_turns(runs, rounds=setting.rounds, warm_ups=1).items():
                yield replace(_blank(setting, work, ALONE, at=workers), seconds=taken)


def one(setting: Setting) -> Iterator[Samples]:
    """One text after another, each alone."""
    calls, warm_up_s = (20, 0.0) if setting.small else (CALLS, WARM_UP_SECONDS)
    for name in (MINILM, BERT_BASE):
        work = setting.short(name)
        bundle = setting.model(name).bundle
        given, _ = _texts(bundle, work)
        for side, context in _one_text_sides(setting, bundle).items():
            with context() as encoder:
                cycle = itertools.cycle(given)
                begun = time.perf_counter()
                encoder.encode([next(cycle)])
                while time.perf_counter() - begun < warm_up_s:
                    encoder.encode([next(cycle)])
                taken = tuple(clocked(functools.partial(encoder.encode, [next(cycle)]))[0] for _ in range(calls))
            yield Samples(work=name, side=side, texts=1, seconds=taken)


def _one_text_sides(setting: Setting, bundle: Path) -> Mapping[str, Callable[[], contextlib.AbstractContextManager[Encoder]]]:
    load = functools.partial(sides.loaded, bundle, engine=setting.engine, variant=VARIANT)
    return {OURS: load, **({} if setting.device == "cpu" else {WITHOUT_GRAPHS: functools.partial(sides.without_cuda_graphs, load)})}


def precisions(setting: Setting) -> Iterator[Samples]:
    """Each variant's speed with short texts, and its vectors of the golden texts against PyTorch's in float32."""
    work = setting.short(MINILM)
    bundle = setting.model(MINILM).bundle
    given, _ = _texts(bundle, work)
    opened = Bundle.open(bundle)
    golden = read_golden(opened.companion(GOLDEN_NAME))
    reference = golden.vectors[opened.manifest.sentence_output]
    with contextlib.ExitStack() as stack:
        encoders: dict[str, Encoder] = {}
        figures = {}
        for variant in (VARIANT, "fp32", *(() if setting.device == "cpu" else ("tf32",))):
            try:
                encoder = stack.enter_context(sides.loaded(bundle, engine=setting.engine, variant=variant))
            except ClsError as error:
                yield replace(_blank(setting, work, variant), failed=str(error))
                continue
            found = parity_figures(reference, as_computed(encoder, golden.inputs))
            figures[variant] = {"mean_cosine": found.mean_cosine, "min_cosine": found.min_cosine, "max_abs": found.max_abs}
            encoders[variant] = encoder
        calls = {variant: functools.partial(encoder.encode, given) for variant, encoder in encoders.items()}
        for variant, taken in seconds_in_turns(calls, rounds=setting.rounds, warm_ups=1).items():
            yield replace(_blank(setting, work, variant), seconds=taken, figures=figures[variant])


def budgets(setting: Setting) -> Iterator[Samples]:
    """Text to vector by the tokens of a run at most, short texts of one model and long ones of the other."""
    longest = max((work for work in setting.works if work.model == BERT_BASE), key=lambda work: work.tokens)
    for work in (setting.short(MINILM), longest):
        bundle = setting.model(work.model).bundle
        given, _ = _texts(bundle, work)

        def sample(budget: int, _: int, bundle: Path = bundle, given: Sequence[str] = given) -> float:
            with sides.loaded(bundle, engine=setting.engine, variant=VARIANT, token_budget=budget) as encoder:
                encoder.encode(given)
                return clocked(functools.partial(encoder.encode, given))[0]

        chosen = (64, 256) if setting.small else BUDGETS
        for budget, taken in in_turns(chosen, sample, rounds=2 if setting.small else 3).items():
            yield replace(_blank(setting, work, OURS, at=budget), seconds=taken)


def memory(setting: Setting) -> Iterator[Samples]:
    """Memory in use while many texts of random lengths go through, after each tenth of them."""
    bundle = setting.model(MINILM).bundle
    count = 200 if setting.small else MEMORY_TEXTS
    longest = Bundle.open(bundle).manifest.max_length
    given = list(random_lengths(count, longest_words=longest))
    tenth = count // TENTHS
    with sides.loaded(bundle, engine=setting.engine, variant=VARIANT) as encoder:
        seconds, held = [], []
        for start in range(0, count, tenth):
            seconds.append(clocked(functools.partial(encoder.encode, given[start : start + tenth]))[0])
            held.append(held_bytes(device=setting.device))
    yield Samples(work=f"{MINILM}, 1 to {longest} words", side=OURS, texts=tenth, seconds=tuple(seconds), held_bytes=tuple(held))


PARTS: Mapping[str, Callable[[Setting], Iterator[Samples]]] = {
    part.__name__: part for part in (export, limit, texts, one, model, precisions, memory, budgets)
}

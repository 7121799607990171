"""Every measurement on the tiny bundle: it is there, of the shape that it says, and not absurd."""

import contextlib
import dataclasses
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from bundle_builder import build_bundle
from golden_bundle import TEXTS, build_golden_bundle, replace_golden

from cls_runtime import ClosedError, Encoder, EngineError, UsageError
from cls_runtime.bench import matrix_rates, steps
from cls_runtime.bench.latency import latency
from cls_runtime.bench.loaded import Loaded, _formulas, loaded_sides
from cls_runtime.bench.machine import this_host
from cls_runtime.bench.measure import benchmark_steps, run_benchmark
from cls_runtime.bench.plan import QUICK, THOROUGH, PlannedSide, fitted, planned_sides, thread_counts
from cls_runtime.bench.resident import peak_bytes
from cls_runtime.bench.results import read_results, results_json
from cls_runtime.bench.server_process import serve_command
from cls_runtime.bench.starts import _arguments, starts
from cls_runtime.bench.throughput import batch_jobs, texts_of_length
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.manifest import MultiplyAdds, Variant, read_manifest
from cls_runtime.encoding.batching import plan_batches
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.engines import onnxruntime
from cls_runtime.engines.base import Batching, TokenBatch
from cls_runtime.engines.cuda import load
from cls_runtime.engines.hand_made_graphs import OUTPUT, graph_bundle, write_graphs

WORK = MultiplyAdds(per_run=5, per_text=100, per_token=10, per_token_pair=1)
SIDE = PlannedSide(variant="fp32", engine="onnxruntime")
TINY = dataclasses.replace(
    QUICK,
    texts=20,
    rounds=2,
    sweep_rounds=1,
    length_tokens=64,
    lengths=(4, 8, 512),
    call_sizes=(1, 4),
    rate_rounds=1,
    token_budgets=(32, 64),
    round_seconds=1e9,  # however slow the machine is, it does all of the above
)
MANY = [f"the cat {'sleeps ' * (index % 5)}{index}" for index in range(20)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    perfect = Variant(files=(), recipe={}, parity={}, batch_invariance_max_abs=0.0, multiply_adds={"fp32": WORK})
    return build_golden_bundle(tmp_path_factory.mktemp("bench") / "tiny", variants={"fp32": perfect})


@pytest.fixture(scope="module")
def announced():
    return []


@pytest.fixture(scope="module")
def results(bundle, announced):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix_rates, "SEQUENCE", 32)
        return run_benchmark(bundle, texts=MANY, origin="a test", plan=TINY, sides=[SIDE], threads=2, step=announced.append)


def of(results, kind):
    return [item for item in results.timings if item.kind == kind]


def test_the_steps_are_announced_in_the_order_of_the_list(results, announced):
    assert announced == [step.words for step in benchmark_steps(TINY)]
    assert announced == [
        *("matrix rates", "loading", "sizing the runs", "parity", "throughput", "text lengths", "texts per call", "token budgets"),
        *("1 caller", "8 callers", "32 callers", "threads", "unloading", "matrix rates", "new processes"),
    ]


@pytest.fixture
def known(bundle):
    """What the steps are told first; the fixture closes what they open."""
    opened = Bundle.open(bundle)
    tokenizer = TextTokenizer.from_bundle(opened)
    with contextlib.ExitStack() as stack:
        yield steps.Known(
            bundle=opened,
            tokenizer=tokenizer,
            planned=[SIDE, PlannedSide(variant="bf16", engine="onnxruntime", objection="not here")],
            threads=1,
            plan=TINY,
            texts=MANY,
            tokenized=tokenizer.tokenize(MANY),
            opened=stack,
        )


def test_a_step_gives_what_is_known_and_changes_nothing(known):
    loaded = steps.loading(known)
    assert (known.sides, known.loaded) == ((), {})
    assert [(side.name, side.failed) for side in loaded.sides] == [(SIDE.name, None), ("bf16 on onnxruntime", "not here")]
    assert loaded.usable == [SIDE]
    measured = steps.throughput(loaded)
    assert loaded.timings == ()
    assert [item.kind for item in measured.timings] == ["text_to_vector", "model_only"]
    again = steps.call_sizes(measured)
    assert again.timings[:2] == measured.timings
    assert {item.kind for item in again.timings[2:]} == {"call_size"}
    rest = {item.name for item in dataclasses.fields(steps.Known)} - {"timings"}
    assert all(getattr(again, name) is getattr(measured, name) for name in rest)


def test_nothing_is_loaded_beside_the_last_steps(known):
    loaded = steps.loading(known)
    (side,) = loaded.loaded.values()
    unloaded = steps.unloading(loaded)
    assert (unloaded.loaded, unloaded.sides, unloaded.usable) == ({}, loaded.sides, [SIDE])
    with pytest.raises(ClosedError):
        side.encoder.encode(["a"])
    words = [step.words for step in benchmark_steps(TINY)]
    assert words[words.index("unloading") :] == ["unloading", "matrix rates", "new processes"]


def test_a_step_that_fails_closes_what_was_loaded(bundle, monkeypatch):
    sides = []

    def fail(known):
        sides.extend(known.loaded.values())
        raise EngineError("no more")

    monkeypatch.setattr(steps, "parity", fail)
    monkeypatch.setattr(steps, "rates", lambda known: known)
    with pytest.raises(EngineError, match="no more"):
        run_benchmark(bundle, texts=MANY, origin="a test", plan=TINY, sides=[SIDE], threads=1)
    (side,) = sides
    with pytest.raises(ClosedError):
        side.encoder.encode(["a"])


def test_no_side_that_works_here_is_an_error(known):
    cannot = dataclasses.replace(known, planned=known.planned[1:])
    with pytest.raises(EngineError, match="nothing can be measured here: bf16 on onnxruntime: not here"):
        steps.loading(cannot)


def test_text_to_vector_has_every_round(results):
    (item,) = of(results, "text_to_vector")
    assert (item.side, item.texts, item.threads, len(item.seconds)) == ("fp32 on onnxruntime", 20, 2, 2)
    assert all(seconds > 0 for seconds in item.seconds)
    assert item.tokens == sum(results.texts.token_counts)
    assert item.padding_tokens < item.tokens


def test_the_work_of_texts_is_the_formulas_without_padding(results):
    (item,) = of(results, "text_to_vector")
    lengths = results.texts.token_counts
    assert item.multiply_adds == {"fp32": 5 * item.batches + sum(100 + 10 * length + length**2 for length in lengths)}


def test_the_model_alone_computes_the_same_tokens(results):
    (whole,), (alone,) = of(results, "text_to_vector"), of(results, "model_only")
    assert (alone.texts, alone.tokens, alone.padding_tokens, alone.batches) == (
        whole.texts,
        whole.tokens,
        whole.padding_tokens,
        whole.batches,
    )


def test_the_model_alone_runs_the_batches_that_its_engine_would_get():
    texts = TokenizedTexts.of([[0] * length for length in range(3, 60)] * 3)
    plans = {"padded": Batching(token_budget=1024, full_tokens=128), "packed": Batching(token_budget=4096, full_tokens=4096, pads=False)}
    ran = {name: [] for name in plans}

    def side(name):
        engine = SimpleNamespace(
            name=name, batching=plans[name], padding_tokens=lambda _: 7, run=lambda batch, outputs: ran[name].append(batch)
        )
        return Loaded(name=name, encoder=None, engine=engine, formulas={})

    for budget in (None, 512):
        with ThreadPoolExecutor(1) as pool:
            for job in batch_jobs({name: side(name) for name in plans}, dict.fromkeys(plans, pool), texts, pad_id=0, token_budget=budget):
                report = job.work()
                assert (report.texts, report.tokens, report.padding_tokens) == (len(texts), len(texts.ids), 7 * report.batches)
        for name, batches in ran.items():
            of_this = plans[name] if budget is None else dataclasses.replace(plans[name], token_budget=budget)
            planned = plan_batches(texts.lengths, of_this)
            assert [batch.lengths.tolist() for batch in batches] == [texts.lengths[batch.indices].tolist() for batch in planned]
            assert {batch.token_budget for batch in batches} == {of_this.token_budget}
            batches.clear()


def test_lengths_are_exact_and_none_is_over_the_maximum(results):
    assert [item.at for item in of(results, "length")] == [4, 8]
    for item in of(results, "length"):
        assert item.padding_tokens == 0
        assert item.tokens == item.at * item.texts


def test_calls_budgets_and_threads_are_varied(results):
    assert [(item.at, item.texts) for item in of(results, "call_size")] == [(1, 1), (4, 4)]
    budgets = of(results, "token_budget")
    assert [item.at for item in budgets] == [32, 64]
    assert budgets[0].batches > budgets[1].batches
    assert {(item.texts, item.tokens, item.padding_tokens) for item in budgets} == {(budgets[0].texts, budgets[0].tokens, 0)}
    assert [(item.at, item.threads) for item in of(results, "threads")] == [(1, 1), (2, 2)]


def test_latency_has_every_request_of_both_ways_to_call(results):
    assert [(item.mode, item.callers) for item in results.latencies] == [
        (mode, callers) for callers in (1, 8, 32) for mode in ("encode", "aencode")
    ]
    for item in results.latencies:
        requests = dict(TINY.callers)[item.callers]
        assert len(item.seconds) == item.callers * requests
        assert max(item.seconds) <= item.wall_seconds


@pytest.mark.parametrize("mode", ["encode", "aencode"])
def test_a_caller_that_fails_ends_the_measurement(bundle, mode, monkeypatch):
    with loaded_sides(Bundle.open(bundle), [SIDE], threads=1) as (ready, _):
        side = ready[SIDE.name]

        def fail(*_, **__):
            raise EngineError("no more")

        monkeypatch.setattr(type(side.encoder), mode, fail)
        with pytest.raises(EngineError, match="no more"):
            latency(side, ["a"], [3], mode=mode, callers=3, requests=2)


def test_a_new_process_says_how_long_it_took_and_what_it_held(results):
    (item,) = results.starts
    assert len(item.seconds) == len(item.peak_bytes) == TINY.starts
    assert item.import_seconds[0] > 0
    assert item.load_seconds[0] > 0
    assert item.import_seconds[0] + item.load_seconds[0] < item.seconds[0]
    assert item.peak_bytes[0] > 20e6  # Python with numpy and an engine


def test_peak_memory_is_the_processs_own_not_its_parents(bundle):
    """getrusage's figure includes the parent's from before the program was replaced."""
    held = np.ones(400_000_000 // 8)
    (item,) = starts(bundle, [SIDE], ["a"], threads=1, rounds=1)
    assert item.peak_bytes[0] < held.nbytes
    assert peak_bytes() > held.nbytes


def test_a_process_that_fails_says_why(bundle):
    with pytest.raises(EngineError, match=r"a new process that loads fp16 on onnxruntime ended with exit code 1: .*no variant 'fp16'"):
        starts(bundle, [PlannedSide(variant="fp16", engine="onnxruntime")], ["a"], threads=1, rounds=1)


def test_parity_is_every_golden_texts_cosine(results):
    (item,) = results.parity
    assert len(item.cosines) == len(TEXTS)
    assert item.figures.min_cosine == pytest.approx(1, abs=1e-9) == min(item.cosines)
    assert results.notes == ()


def test_a_bundle_without_golden_vectors_is_measured_and_says_so(tmp_path):
    plain = build_bundle(tmp_path / "plain")
    results = run_benchmark(plain, texts=MANY[:3], origin="a test", plan=TINY, sides=[SIDE], threads=1)
    assert results.parity == ()
    assert "names no golden.npz" in results.notes[0]
    assert of(results, "text_to_vector")[0].multiply_adds == {}


def test_golden_vectors_of_another_width_are_a_note(bundle):
    other = shutil.copytree(bundle, bundle.parent / "other")
    golden = read_golden(other / GOLDEN_NAME)
    narrower = {name: rows[:, :5] for name, rows in golden.vectors.items()}
    replace_golden(other, dataclasses.replace(golden, vectors=narrower))
    opened = Bundle.open(other)
    with contextlib.ExitStack() as stack:
        tokenizer = TextTokenizer.from_bundle(opened)
        known = steps.Known(bundle=opened, tokenizer=tokenizer, planned=[SIDE], threads=1, plan=TINY, texts=(), tokenized=(), opened=stack)
        assert "golden.npz has vectors of 5 numbers, the bundle's have 8" in steps.parity(known).notes[0]


def test_matrix_rates_are_of_every_arithmetic_and_thread_count(results):
    assert [(item.engine, item.arithmetic, item.threads) for item in results.rates] == [
        ("onnxruntime", arithmetic, threads) for threads in (1, 2) for arithmetic in ("fp32", "int8")
    ]
    assert {len(item.seconds) for item in results.rates} == {2 * TINY.rate_rounds}  # before everything else, and after it
    assert all(min(item.seconds) > 0 for item in results.rates)
    work = matrix_rates.PRODUCTS * 32 * matrix_rates.WIDTH**2  # of the sequence that the fixture sets
    assert {item.threads: item.multiply_adds for item in results.rates} == {1: work, 2: 2 * work}


def test_the_rate_graphs_multiply_what_they_claim(tmp_path):
    """fp32 and int8 are the same chain of products, within what int8 rounds away."""
    graphs = {"fp32": matrix_rates._graph(matrix_rates._float_chain()), "int8": matrix_rates._graph(matrix_rates._int8_chain())}
    batch = TokenBatch(np.arange(8, dtype=np.int32), np.array([8], dtype=np.int32))
    rows = {}
    write_graphs(tmp_path, graphs)
    for name, data in graphs.items():
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
        assert [item.op_type for item in model.graph.node].count("Gemm") == matrix_rates.PRODUCTS
        engine = onnxruntime.load(graph_bundle(tmp_path, graphs, width=matrix_rates.WIDTH), variant=name, threads=1)
        (rows[name],) = engine.run(batch, [OUTPUT])
        engine.close()
    cosine = float((rows["fp32"] * rows["int8"]).sum() / np.linalg.norm(rows["fp32"]) / np.linalg.norm(rows["int8"]))
    assert rows["fp32"].shape == (1, matrix_rates.WIDTH)
    assert cosine > 0.99


def test_texts_of_a_length_are_cut_from_the_texts(bundle):
    tokenized = TextTokenizer.from_bundle(Bundle.open(bundle)).tokenize(["the cat sleeps", "a dog runs"])
    given = tokenized.token_ids()
    inner = [*given[0][1:-1], *given[1][1:-1]]
    made = texts_of_length(tokenized, 6, 2)
    first, second = made.token_ids()
    assert first == (given[0][0], *inner[:4], given[0][-1])
    assert list(second[1:-1]) == np.resize(inner, 8)[4:].tolist()
    assert made.type_ids.tolist() == [0] * 12
    assert [texts_of_length(tokenized, length, 1).lengths.tolist() for length in (1, 2, 3)] == [[1], [2], [3]]


def test_what_was_found_is_read_back_equal(results, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(results_json(results))
    assert read_results(path) == results


def test_the_host_has_no_name_and_no_path():
    host = this_host()
    assert host.cpu
    assert host.versions["numpy"] == np.__version__
    words = " ".join(map(str, dataclasses.astuple(host)))
    assert str(Path.home()) not in words
    assert len(platform.node()) < 4 or platform.node() not in words


@pytest.mark.parametrize(("threads", "expected"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_thread_counts_double_up_to_the_budget(threads, expected):
    assert thread_counts(threads) == expected


def test_sides_are_all_that_can_run_or_those_that_were_named(bundle, monkeypatch):
    monkeypatch.setattr("cls_runtime.verifying.plan.installed_engines", lambda: ("onnxruntime",))
    manifest = read_manifest(bundle)
    assert [side.name for side in planned_sides(manifest, variants=None, engines=None)] == ["fp32 on onnxruntime"]
    with pytest.raises(UsageError, match="the bundle has no variant 'int8'"):
        planned_sides(manifest, variants=["int8"], engines=None)


def test_a_device_is_for_the_sides_that_compute_on_gpus(bundle, monkeypatch):
    monkeypatch.setattr("cls_runtime.verifying.plan.require_engine", lambda engine: None)
    sides = planned_sides(read_manifest(bundle), variants=["fp32"], engines=["onnxruntime", "cuda"], device="0,1")
    assert [(side.engine, side.device) for side in sides] == [("onnxruntime", None), ("cuda", "0,1")]


def test_every_process_of_a_benchmark_is_told_the_device(bundle):
    side = PlannedSide(variant="fp32", engine="cuda", device="0,1")
    assert _arguments(bundle, side, 2) == [str(bundle), "fp32", "cuda", "2", "0,1"]
    assert _arguments(bundle, SIDE, 2) == [str(bundle), "fp32", "onnxruntime", "2"]
    command = serve_command(bundle, 1, variant="fp32", engine="cuda", device="0,1", threads=2)
    assert command[command.index("--device") + 1] == "0,1"
    assert "--device" not in serve_command(bundle, 1, variant="fp32", engine="onnxruntime", threads=2)
    with pytest.raises(EngineError, match="ended with exit code 1: .*device is '7' and engine is 'onnxruntime'"):
        starts(bundle, [PlannedSide(variant="fp32", engine="onnxruntime", device="7")], ["a"], threads=1, rounds=1)


def test_engines_are_loaded_on_the_device(bundle, monkeypatch):
    """Twice: once in the Encoder, and once alone."""
    given = []

    def stand_in(bundle, *, variant, threads, devices=()):
        given.append(devices)
        return onnxruntime.load(bundle, variant="fp32", threads=threads)

    monkeypatch.setattr(load, "load", stand_in)
    sides = [PlannedSide(variant="fp32", engine="cuda", device="1,0"), SIDE]
    with loaded_sides(Bundle.open(bundle), sides, threads=1) as (ready, failed):
        assert (list(ready), failed) == (["fp32 on cuda", "fp32 on onnxruntime"], {})
    assert given == [(1, 0), (1, 0)]


@pytest.mark.parametrize(
    ("variant", "engine", "arithmetic"),
    [
        ("fp32", "openvino", "fp32"),
        ("bf16", "openvino", "bf16"),
        ("fp16", "onnxruntime", "fp32"),
        ("fp16", "cuda", "fp16"),
        ("tf32", "cuda", "tf32"),
    ],
)
def test_work_is_held_to_the_arithmetic_that_computes_it(variant, engine, arithmetic, tmp_path):
    entry = Variant(files=(), recipe={}, parity={}, batch_invariance_max_abs=0.0, multiply_adds={"fp32": WORK})
    opened = Bundle.open(build_bundle(tmp_path / "tiny", variants={"fp32": entry, "fp16": entry}))
    assert _formulas(opened, PlannedSide(variant=variant, engine=engine)) == {arithmetic: WORK}


def test_no_texts_is_an_error(bundle):
    with pytest.raises(UsageError, match="there are no texts"):
        run_benchmark(bundle, texts=[], origin="", plan=TINY, sides=[SIDE], threads=1)


def amounts(plan):
    """How much a plan asks for, by field: a number, or how many of them, or all requests."""
    counted = {item.name: getattr(plan, item.name) for item in dataclasses.fields(plan)} | {
        "callers": sum(callers * requests for callers, requests in plan.callers)
    }
    return {
        name: len(value) if isinstance(value, tuple) else value for name, value in counted.items() if name not in ("quick", "token_budget")
    }


def test_the_quick_plan_asks_for_less_of_the_same():
    """Never for more of anything, and for the same tables: of the same numbers of callers, at lengths that the thorough plan has too."""
    quick, thorough = amounts(QUICK), amounts(THOROUGH)
    assert all(quick[name] <= thorough[name] for name in thorough)
    assert quick["texts"] * quick["rounds"] < thorough["texts"] * thorough["rounds"] / 5
    assert [callers for callers, _ in QUICK.callers] == [callers for callers, _ in THOROUGH.callers]
    for varied in ("lengths", "call_sizes", "token_budgets"):
        assert set(getattr(QUICK, varied)) <= set(getattr(THOROUGH, varied))


def test_a_slow_model_gets_less_of_everything():
    slow = fitted(THOROUGH, seconds_per_token=1e-3, mean_tokens=25, threads=2)  # 1,500 tokens a round
    assert (slow.texts, slow.sweep_texts, slow.length_tokens) == (60, 60, 750)
    assert slow.call_sizes == (1, 2, 4, 8, 16, 32)
    assert slow.token_budgets == (128, 256, 512)
    slowest = fitted(THOROUGH, seconds_per_token=1.0, mean_tokens=25, threads=2)
    assert (slowest.texts, slowest.call_sizes, slowest.token_budgets) == (THOROUGH.least_texts, (1,), (128,))
    assert fitted(THOROUGH, seconds_per_token=1e-5, mean_tokens=25, threads=2) == THOROUGH


def test_fewer_texts_than_planned_are_a_note(bundle):
    hasty = dataclasses.replace(TINY, round_seconds=1e-9, least_texts=3)
    results = run_benchmark(bundle, texts=MANY, origin="a test", plan=hasty, sides=[SIDE], threads=1)
    assert len(results.texts.token_counts) == of(results, "text_to_vector")[0].texts == 3
    assert results.notes == ("3 of 20 texts per round, so that a round of fp32 on onnxruntime takes about 1e-09 s",)


def test_an_encoder_is_measured_as_a_user_gets_it(bundle):
    with (
        loaded_sides(Bundle.open(bundle), [SIDE], threads=1) as (ready, failed),
        Encoder.load(bundle, variant="fp32", engine="onnxruntime") as encoder,
    ):
        assert failed == {}
        assert np.array_equal(ready[SIDE.name].encoder.encode(MANY), encoder.encode(MANY))

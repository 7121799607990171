"""Tables, plots and the HTML report, made from results alone: from a fixed set of them, so that every figure is known."""

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from bench_results import FAST, RESULTS, SLOW

from cls_runtime import UsageError
from cls_runtime.bench import figures, tables
from cls_runtime.bench.html_report import headlines, html_report
from cls_runtime.bench.peer_sides import PeerSide
from cls_runtime.bench.peers import PeerComparison, SpeedRatio
from cls_runtime.bench.plots import PLOTS, inline_svg, overview, require_bench_extra, shown_plots
from cls_runtime.bench.results import read_results, results_json
from cls_runtime.bench.spread import Spread
from cls_runtime.bench.table import Table, digits, markdown
from cls_runtime.errors import MissingExtraError

EVIL = '<script src="http://evil.example/x.js">alert(1)</script>\'"&$x^2$'


@pytest.fixture
def needs_bench_extra():
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")


def with_peers(**changes):
    sides = (
        PeerSide(name="cls-export:onnxruntime:int8", versions={}, seconds=(1.0, 1.0), texts_per_second=100.0),
        PeerSide(name="fastembed:int8", versions={}, seconds=(2.0, 3.0), texts_per_second=40.0, settings="batches of 256"),
        PeerSide(name="optimum:fp32", versions={}, failed=EVIL),
    )
    ratio = SpeedRatio(ours=sides[0].name, theirs=sides[1].name, median=2.5, low=2.0, high=3.0)
    comparison = PeerComparison(texts=100, mean_tokens=25.0, threads=2, reference=sides[0].name, sides=sides, ratios=(ratio,))
    return dataclasses.replace(RESULTS, peers=comparison, **changes)


class TestFigures:
    def test_the_limit_is_the_multiply_adds_at_the_best_measured_rate(self):
        """int8 at 4e9/s, of the faster engine; fp32 at 1e9/s; both at two threads."""
        assert figures.bound_seconds(RESULTS, {"int8": 4_000_000_000}, threads=2) == pytest.approx(1.0)
        assert figures.bound_seconds(RESULTS, {"int8": 2_000_000_000, "fp32": 500_000_000}, threads=2) == pytest.approx(1.0)

    @pytest.mark.parametrize("multiply_adds", [{}, {"fp16": 1}])
    def test_unknown_work_or_an_unknown_rate_has_no_limit(self, multiply_adds):
        assert figures.bound_seconds(RESULTS, multiply_adds, threads=2) is None

    def test_one_batch_is_held_to_one_thread(self):
        (item,) = figures.timings(RESULTS, "text_to_vector", FAST)
        two = figures.timing_bound(RESULTS, item)
        one = figures.timing_bound(RESULTS, dataclasses.replace(item, batches=1))
        assert one == pytest.approx(2 * two)

    def test_ratios_are_of_the_rounds(self):
        fast, slow = (figures.timings(RESULTS, "text_to_vector", side)[0] for side in (FAST, SLOW))
        assert figures.ratio(fast, slow) == Spread(median=4.0, low=4.0, high=4.0)

    def test_a_latencys_limit_is_a_thread_for_one_and_shared_by_many(self):
        one, many = (item for item in RESULTS.latencies if item.side == FAST and item.mode == "encode")
        assert figures.latency_bound(RESULTS, one) == pytest.approx(0.05)  # 1e8 a request at 2e9/s
        assert figures.latency_bound(RESULTS, many) == pytest.approx(8 * 0.025)
        assert figures.percentiles_ms(one) == pytest.approx((100, 145, 149))

    def test_padding_in_the_order_of_arrival(self):
        assert figures.padding_share(figures.arrival_batches([10, 30])) == pytest.approx(1 / 3)
        assert figures.padding_share(figures.arrival_batches([30] * 32 + [10] * 32)) == 0


class TestTables:
    def test_every_table_is_there_and_whole(self):
        by_key = {table.key: table for table in tables.all_tables(with_peers())}
        assert list(by_key) == [
            *("throughput", "peers", "latency", "length", "call_size", "threads", "token_budget", "padding"),
            *("start", "serving", "parity", "rates"),
        ]
        for table in by_key.values():
            assert table.caption
            assert all(len(row) == len(table.header) for row in table.rows), table.key

    def test_the_compute_bound_stands_beside_every_figure_of_speed(self):
        table = tables.throughput(RESULTS)
        fast = dict(zip(table.header, table.rows[1], strict=True))
        assert fast["texts/s"] == "40"
        assert fast[f"vs. {SLOW}"] == "4.00"
        assert fast["ratio to compute bound"] == "2.5"
        assert tables.latency(RESULTS).rows[2][:3] == (FAST, "encode", "100 / 145 / 149 (50.0)")
        assert all("(" in cell for row in tables.length(RESULTS).rows for cell in row[1:])

    def test_padding_is_that_of_the_runtimes_batches_and_of_the_usual_loops(self):
        texts = dataclasses.replace(RESULTS.texts, token_counts=(10, 30) * 16)
        rows = tables.padding(dataclasses.replace(RESULTS, texts=texts)).rows
        assert rows[0] == ("sorted by length, at most 256 tokens", "10.7", "640", "0", "0.0%")
        assert rows[-1] == ("in order of arrival, 32 texts", "32.0", "640", "320", "33.3%")

    def test_without_recorded_work_the_limit_is_unknown_and_said_so(self):
        timings = tuple(dataclasses.replace(item, multiply_adds={}) for item in RESULTS.timings)
        table = tables.throughput(dataclasses.replace(RESULTS, timings=timings))
        assert [row[4] for row in table.rows] == ["-", "-"]

    def test_the_peers_table_names_a_pooling_that_is_not_the_cls_row(self):
        results = with_peers()
        mean = dataclasses.replace(results, peers=dataclasses.replace(results.peers, pooling="mean"))
        assert "rounds. All vectors are the mean of the tokens' rows. Parity is" in tables.peers(mean).caption
        assert "rounds. Parity is" in tables.peers(results).caption

    def test_a_server_has_a_row_for_each_load_between_what_it_is_held_against(self):
        table = tables.serving(RESULTS)
        rows = {row[1]: dict(zip(table.header, row, strict=True)) for row in table.rows}
        assert list(rows) == [
            *("encode, no server", "aencode, 32 callers, no server", "cls-serve, 32 callers"),
            *("cls-serve, 20%", "cls-serve, 100%", "cls-serve, 150%", "responder, 32 callers", "responder"),
        ]
        assert rows["encode, no server"]["p50 ms"] == "20.0"
        assert rows["cls-serve, 32 callers"]["answered/s"] == "100"
        over = rows["cls-serve, 150%"]
        assert (over["requests/s"], over["answered/s"], over["refused/s"]) == ("150", "109", "40")
        assert (over["p50 ms"], over["refused p99 ms"], over["sent late, p99 ms"], over["generator CPU"]) == ("321", "5.0", "1.00", "25%")
        assert "pinned apart" in table.caption

    def test_a_load_without_a_single_answer_is_drawn_and_has_a_row(self, needs_bench_extra):
        (served,) = RESULTS.serving
        none = dataclasses.replace(served.rates[0], answered_s=(), answered_in_time=0, failed=20)
        results = dataclasses.replace(RESULTS, serving=(dataclasses.replace(served, rates=(none,)),))
        assert tables.serving(results).rows[3][2:] == ("20", "0", "-", "-", "-", "0", "-", "20", "1.00", "25%")
        (plot,) = (plot for plot in PLOTS if plot.key == "serving")
        assert inline_svg(plot, results).startswith("<svg")

    def test_a_peer_that_could_not_be_measured_has_a_row_that_says_why(self):
        rows = tables.peers(with_peers()).rows
        assert rows[1] == ("fastembed:int8", "batches of 256", "40", "2.50", "2.00 to 3.00", "-")
        assert rows[2] == ("optimum:fp32", EVIL, "-", "-", "-", "-")

    def test_a_side_that_failed_is_in_the_environment(self):
        assert ("not measured", "bf16 on onnxruntime: this CPU cannot") in tables.environment(RESULTS)

    def test_markdown_is_one_line_a_row_whatever_is_in_it(self):
        table = Table(key="", title="", caption="", header=("a", "b"), rows=(("x|y\nz", "1"),))
        assert markdown(table) == "| a | b |\n| --- | ---: |\n| x\\|y z | 1 |"

    @pytest.mark.parametrize(("value", "words"), [(1234.5, "1,234"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.012")])
    def test_digits(self, value, words):
        assert digits(value) == words


class TestResultsFile:
    def test_it_is_read_back_equal(self, tmp_path):
        path = tmp_path / "results.json"
        for results in (RESULTS, with_peers()):
            path.write_text(results_json(results))
            assert read_results(path) == results

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda raw: raw.update(results_version=2), "results version 2, this version of cls-export reads 1"),
            (lambda raw: raw.pop("results_version"), "has no results_version"),
            (lambda raw: raw.pop("host"), "has no field 'host'"),
            (lambda raw: raw["timings"][0].update(seconds="1"), r"timings\[0\]: seconds is str, expected a list"),
            (lambda raw: raw["timings"][0].update(kind="other"), "kind is 'other', expected one of"),
        ],
    )
    def test_another_file_is_refused_with_its_reason(self, change, message, tmp_path):
        raw = json.loads(results_json(RESULTS))
        change(raw)
        path = tmp_path / "results.json"
        path.write_text(json.dumps(raw))
        with pytest.raises(UsageError, match=message):
            read_results(path)

    @pytest.mark.parametrize("text", ["", "[]", "{"])
    def test_broken_files(self, text, tmp_path):
        path = tmp_path / "results.json"
        path.write_text(text)
        with pytest.raises(UsageError, match="expected"):
            read_results(path)


@pytest.mark.usefixtures("needs_bench_extra")
class TestPlots:
    def test_every_plot_is_drawn(self):
        assert [plot.key for plot in shown_plots(with_peers())] == [plot.key for plot in PLOTS]
        assert "peers" not in [plot.key for plot in shown_plots(RESULTS)]

    def test_the_overview_is_a_png_with_something_in_every_part(self):
        from matplotlib.image import imread

        pixels = imread(io.BytesIO(overview(with_peers(), suffix=".png")))
        rows, columns = -(-len(PLOTS) // 2), 2
        for index in range(len(PLOTS)):
            row, column = divmod(index, columns)
            height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
            part = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width, :3]
            assert len(np.unique((part[::3, ::3] * 255).astype(int) @ [1, 2**8, 2**16])) > 5, PLOTS[index].key

    def test_the_overview_is_an_svg_too_the_same_every_time(self):
        first, second = (overview(with_peers(), suffix=".svg") for _ in range(2))
        assert first == second
        assert ET.fromstring(first).tag.endswith("svg")

    @pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.key)
    def test_an_inline_plot_belongs_to_the_page(self, plot):
        svg = inline_svg(plot, with_peers())
        assert svg.startswith('<svg role="img" aria-label=')
        assert "var(--ink)" in svg
        assert "http" not in svg
        ids = re.findall(r'\bid="([^"]*)"', svg)
        assert len(ids) == len(set(ids)) > 3
        assert all(name.startswith(f"{plot.key}-") for name in ids)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', svg)) <= set(ids)

    def test_a_name_in_the_overview_is_no_formula(self):
        results = dataclasses.replace(RESULTS, bundle=dataclasses.replace(RESULTS.bundle, source="$\\frac{1"))
        assert overview(results, suffix=".svg")

    @pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
    def test_without_the_extra_one_line_says_what_to_install(self, package, monkeypatch):
        monkeypatch.setattr("cls_runtime.bench.plots.find_spec", lambda name: None if name == package else object())
        with pytest.raises(MissingExtraError, match=rf"need {package}; run: pip install cls-export\[bench\]"):
            require_bench_extra()


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.style = [], "", ""
        self._open = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "path", "use", "br"}:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def page():
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    bundle = dataclasses.replace(RESULTS.bundle, source=EVIL)
    texts = dataclasses.replace(RESULTS.texts, origin=EVIL)
    return Page(html_report(with_peers(bundle=bundle, texts=texts, notes=(EVIL,))))


class TestPage:
    def test_it_needs_nothing_from_outside(self, page):
        assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"} == set()
        for tag, attributes in page.tags:
            for name, value in attributes.items():
                if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                    assert value.startswith("#"), (tag, name, value)
                assert not name.startswith("on"), (tag, name)
        assert "@import" not in page.style
        assert "url(" not in page.style

    def test_what_came_from_outside_is_text(self, page):
        assert page.text.count(EVIL) >= 4  # the title, the heading, the texts' origin, a peer's error, a note
        assert "alert(1)" not in page.style

    def test_it_has_every_table_and_every_plot(self, page):
        tags = [tag for tag, _ in page.tags]
        assert tags.count("svg") == len(PLOTS)
        assert tags.count("table") == len(tables.all_tables(with_peers())) + 1
        for plot in PLOTS:
            assert ("section", plot.key) in {(tag, attributes.get("id")) for tag, attributes in page.tags}

    def test_it_reads_on_a_phone_in_print_and_in_the_dark(self, page):
        assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
        assert "@media print" in page.style
        assert "prefers-color-scheme: dark" in page.style

    def test_every_contents_line_leads_somewhere(self, page):
        targets = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
        assert targets <= {attributes.get("id") for _, attributes in page.tags}

    def test_headlines(self):
        assert [(item.figure, item.unit) for item in headlines(RESULTS)] == [
            ("40", "texts/s"),
            ("2.5", "ratio to compute bound"),
            ("100", "ms"),
            ("0.50", "s"),
        ]

"""The start page and /docs: what they say, that they ask nobody else, and what Chromium makes of them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from bundle_builder import build_bundle
from served import Running, Served, running

from cls_runtime import Encoder
from cls_runtime.bundle.manifest import ParityFigures, Variant
from cls_runtime.serving.pages.start_page import cosine

PAGES = ("/", "/docs")
PHONE, DESKTOP = 390, 1280
KEY = "a-key"
FIGURES = ParityFigures(texts=159, mean_cosine=0.99961634, p1_cosine=0.9984578, min_cosine=0.9975017, max_abs=0.056, worst_text=3)
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: scripts/ci_system_packages.sh installs it where apt-get can")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of each kind. What is in a manifest is text that a page must not take for HTML."""
    folder = tmp_path_factory.mktemp("bundles")
    odd = {"<b>query</b>": "cat ", "document": "dog "}
    int8 = Variant(files=(), recipe={}, parity={"cls": FIGURES}, batch_invariance_max_abs=0.0)
    return {
        "similarity": build_bundle(
            folder / "embeds", outputs=("sentence_embedding",), prompts=odd, variants={"int8": int8}, normalize=True
        ),
        "predict": build_bundle(folder / "classifies"),
        "rerank": build_bundle(folder / "ranks", label_count=1),
    }


@pytest.fixture(scope="module")
def pages(bundles: dict[str, Path]) -> Iterator[dict[str, Served]]:
    served = {kind: Served.of(bundle, model_names=(f"a-{kind}-model",)) for kind, bundle in bundles.items()}
    yield served
    for server in served.values():
        server.close()


class Reader(HTMLParser):
    """The tags of a page, and whether each is closed."""

    EMPTY = ("meta", "link", "input", "br")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> list[tuple[str, dict[str, str | None]]]:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader.found


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("kind", ["similarity", "predict", "rerank"])
def test_a_page_is_one_file_that_asks_nobody_else(pages, kind, path):
    answer = pages[kind].get(path)
    page = answer.body.decode()
    tags = read(page)
    for tag, attributes in tags:
        assert "src" not in attributes, tag
        assert "style" not in attributes, "the policy lets no style in but the page's own"
        assert not any(name.startswith("on") for name in attributes), "the policy lets no script in but the page's own"
        if "href" in attributes:
            assert not re.match(r"\w+:|//", attributes["href"] or "") or attributes["href"] == "data:,", attributes
    assert not re.search(r"url\(|@import", page)
    identities = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize("path", PAGES)
def test_the_policy_names_the_style_and_the_script_that_are_in_the_page(pages, path):
    answer = pages["similarity"].get(path)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.body.decode(), re.DOTALL)
        assert policy[directive] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_start_page_says_what_is_served(pages):
    page = pages["similarity"].get("/").body.decode()
    model = pages["similarity"].service.models.all[0]
    for fact in ("a-similarity-model", model.fingerprint, "int8 on onnxruntime", "8 dimensions", "of unit length", "up to 16 tokens"):
        assert fact in page, fact
    assert "<code>&lt;b&gt;query&lt;/b&gt;</code>" in page
    assert "<b>query" not in page


def test_the_start_page_has_the_manifests_figures_and_what_they_are_held_to(pages):
    page = pages["similarity"].get("/").body.decode()
    for figure in ("0.99962", "0.99846", "0.99750", "0.056", "159 texts", "≥ 0.999<", "≥ 0.998<", "≥ 0.995<"):
        assert figure in page, figure


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "1"), (0.99999999999, "1 − 1e-11"), (0.99995, "1 − 5e-5"), (0.5, "0.50000"), (-0.25, "-0.25000")]
)
def test_a_cosine_never_rounds_up_to_one(value, shown):
    assert cosine(value) == shown


@pytest.mark.parametrize(("kind", "button"), [("similarity", "Compare"), ("rerank", "Rank"), ("predict", "Classify")])
def test_the_box_is_what_the_model_is_for(pages, kind, button):
    page = pages[kind].get("/").body.decode()
    assert re.findall(r'data-kind="(\w+)"', page) == [kind]
    assert f">{button}</button>" in page
    assert f"/{kind}" in page


def test_of_several_models_each_kind_has_a_box_and_each_model_its_figures(serve, bundles, make_bundle):
    another = make_bundle(outputs=("sentence_embedding",))
    page = serve(*bundles.values(), another, model_names=("one", "two", "three", "four")).get("/").body.decode()
    assert re.findall(r'data-kind="(\w+)"', page) == ["similarity", "predict", "rerank"]
    assert re.findall(r"<option>(\w+)</option>", page) == ["one", "four"]
    assert [name for name in ("one", "two", "three", "four") if f">{name}</h2>" in page] == ["one", "two", "three", "four"]


def test_a_field_for_the_key_is_there_where_the_server_asks_for_one(serve, bundles, pages, tmp_path):
    (tmp_path / "keys").write_text(f"{KEY}\n")
    answer = serve(bundles["similarity"], api_key_file=tmp_path / "keys").get("/")
    assert answer.status == 200
    assert b'id="key" type="password"' in answer.body
    assert b"Authorization: Bearer $KEY" in answer.body
    assert KEY.encode() not in answer.body
    plain = pages["similarity"].get("/").body
    assert b'id="key"' not in plain
    assert b"$KEY" not in plain


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def server(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All kinds of models, and a key."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "keys").write_text(f"{KEY}\n")
    with running(*bundles.values(), "--threads", "2", "--api-key-file", folder / "keys", log=folder / "log") as server:
        yield server


def try_it(browser: Browser, kind: str, *, key: str = "", **fields: str) -> str:
    """Fills in a box, presses its button, and gives what is shown."""
    browser.run(f"document.getElementById('key').value = {key!r}")
    form = f"document.querySelector('form[data-kind={kind}]')"
    for name, text in fields.items():
        browser.run(f"{form}.elements[{name!r}].value = {text!r}")
    browser.run(f"{form}.querySelector('output').replaceChildren(), {form}.querySelector('button').click()")
    return browser.wait_for(f"{form}.querySelector('output').innerText")


@in_chromium
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_its_screen_loads_nothing_else_and_breaks_no_policy(browser, server, tmp_path, path, width, dark):
    imread = pytest.importorskip("matplotlib.image").imread
    browser.open(f"{server.url}{path}", width=width, height=2000, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.screenshot(tmp_path / "page.png")
    pixels = imread(tmp_path / "page.png")[..., :3]
    assert pixels.shape[1] == width
    assert pixels.mean() < 0.25 if dark else pixels.mean() > 0.85
    assert (np.abs(pixels - pixels[0, 0]).max(-1) > 0.3).mean() > 0.01, "there is something to read"
    assert {url.partition("?")[0] for url in browser.requested()} <= {f"{server.url}{path}", "data:,"}
    assert browser.complaints() == []


@in_chromium
@pytest.mark.slow
def test_the_commands_have_the_address_that_the_page_came_from(browser, server):
    for path in PAGES:
        browser.open(f"{server.url}{path}", width=DESKTOP)
        lines = browser.run("[...document.querySelectorAll('pre')].map(line => line.innerText)")
        assert lines
        assert all(line.startswith(f"curl {server.url}/") for line in lines)


@in_chromium
@pytest.mark.slow
def test_two_sentences_are_compared_with_a_key_that_nothing_keeps(browser, server, bundles):
    browser.open(server.url, width=PHONE)
    assert "key is required" in try_it(browser, "similarity", first="the cat", second="a dog runs")
    with Encoder.load(bundles["similarity"]) as encoder:
        a, b = encoder.encode(["the cat", "a dog runs"])
    expected = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    shown = try_it(browser, "similarity", first="the cat", second="a dog runs", key=KEY)
    assert float(shown.split()[0].replace("−", "-")) == pytest.approx(expected, abs=6e-5)
    assert "9 tokens" in shown
    assert browser.run("[localStorage.length, sessionStorage.length, document.cookie, location.search]") == [0, 0, "", ""]
    browser.open(server.url, width=PHONE)
    assert browser.run("document.getElementById('key').value") == ""


@in_chromium
@pytest.mark.slow
def test_texts_are_ranked_and_classified(browser, server):
    browser.open(server.url, width=DESKTOP)
    ranked = try_it(browser, "rerank", query="the cat", first="a dog runs", second="the cat sleeps", key=KEY).splitlines()
    assert {"a dog runs", "the cat sleeps"} <= set(ranked)
    scores = [float(line) for line in ranked if re.fullmatch(r"[\d.]+", line)]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    classified = try_it(browser, "predict", text="the cat", key=KEY)
    assert {"LABEL_0", "LABEL_1", "LABEL_2"} <= set(classified.split())


@in_chromium
@pytest.mark.slow
def test_what_the_server_refuses_is_said_in_the_page_and_is_no_html(browser, server):
    browser.open(server.url, width=DESKTOP)
    assert "the key is wrong" in try_it(browser, "similarity", key="<img src=x>")
    assert browser.run("document.images.length") == 0
    assert browser.run("document.querySelector('form[data-kind=similarity] button').disabled") is False

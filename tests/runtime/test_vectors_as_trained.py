"""What `Encoder` makes of the graph's rows: as the model was trained, or as it is asked for; on tiny graphs, whose rows numpy can pool."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_builder import HIDDEN, MAX_LENGTH, SPECIAL, VOCABULARY, build_bundle, word_piece
from golden_bundle import TEXTS as GOLDEN_TEXTS
from golden_bundle import build_golden_bundle, replace_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from watched_engine import WatchedEngine

from cls_runtime import (
    Bundle,
    BundleError,
    DimensionsWarning,
    Encoder,
    InvalidVectorError,
    MissingExtraError,
    TextError,
    TextTooLongError,
    TruncationWarning,
    UsageError,
)
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.encoding import chunks
from cls_runtime.encoding.quantizing import quantized
from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.padding import padded

ATOL = 1e-6
PROMPTS = {"query": "find the dog: ", "passage": "cat ", "empty": ""}
TEXTS = ["the cat sleeps", "a", "", "the dog runs, the cat sleeps", "zebra!", "the cat"]
PAIRS = [("the cat", "the dog"), ("a", "")]
LONG = "the dog sleeps " * 20


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)


def same(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


@pytest.fixture(scope="module")
def mean_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that a bundle can have: the mean, every token's row, prompts of which one goes before every text, a size, unit length."""
    return build_golden_bundle(
        tmp_path_factory.mktemp("mean") / "tiny",
        pooling="mean",
        token_rows=True,
        normalize=True,
        prompts=PROMPTS,
        default_prompt_name="passage",
        truncate_dim=6,
        matryoshka_dims=(2, 4),
        similarity_fn_name="dot",
    )


@pytest.fixture(scope="module")
def mean(mean_bundle: Path) -> Iterator[Encoder]:
    with Encoder.load(mean_bundle, threads=2, token_budget=64, on_overflow="truncate") as encoder:
        yield encoder


def states(encoder: Encoder, texts: list, **options: object) -> list[np.ndarray]:
    return encoder.encode(texts, output="tokens", **options)


def raw(encoder: Encoder, texts: list, *, prompt: str = "") -> np.ndarray:
    """The mean, float32 [n, HIDDEN], by numpy."""
    return np.stack([rows.mean(0) for rows in states(encoder, texts, prompt=prompt)])


class TestAsTrained:
    def test_the_mean_of_the_tokens_rows(self, mean):
        same(mean.encode(TEXTS, prompt="", dimensions=HIDDEN, normalize=False), raw(mean, TEXTS))

    def test_nothing_said_is_the_default_prompt_the_unit_length_and_the_cut_behind_it(self, mean):
        same(mean.encode(TEXTS), unit(raw(mean, TEXTS, prompt="cat "))[:, :6])

    def test_normalize_decides(self, mean):
        cut = raw(mean, TEXTS, prompt="cat ")[:, :6]
        same(mean.encode(TEXTS, normalize=True), unit(cut))
        same(mean.encode(TEXTS, normalize=False), cut)

    def test_dimensions_are_cut_and_of_unit_length_again(self, mean):
        cut = raw(mean, TEXTS, prompt="cat ")[:, :4]
        same(mean.encode(TEXTS, dimensions=4), unit(cut))
        same(mean.encode(TEXTS, dimensions=4, normalize=False), cut)
        assert mean.encode([], dimensions=4).shape == (0, 4)

    def test_the_pooler_and_the_logits_are_what_the_graph_gives(self, mean):
        sentence = mean.encode(TEXTS, dimensions=HIDDEN, normalize=False)
        solution, *_ = np.linalg.lstsq(sentence.astype(np.float64), mean.encode(TEXTS, output="logits").astype(np.float64), rcond=None)
        np.testing.assert_allclose(sentence @ solution, mean.encode(TEXTS, output="logits"), rtol=0, atol=1e-4)
        assert mean.encode(TEXTS, output="pooler").shape == (len(TEXTS), HIDDEN)

    def test_a_mean_is_never_called_cls(self, mean):
        assert mean.outputs == ("sentence", "pooler", "logits", "tokens")
        with pytest.raises(UsageError, match="its vector is the mean of the tokens' rows, export it with --pooling cls for the CLS row"):
            mean.encode(["a"], output="cls")

    def test_every_way_in_gives_the_same(self, mean, monkeypatch):
        monkeypatch.setattr(mean._runner, "batching", replace(mean._runner.batching, window_texts=4))
        texts = [*TEXTS, *TEXTS[::-1]]
        for options in ({}, {"prompt_name": "query", "dimensions": 4}, {"dtype": "int8"}, {"prompt": "a ", "dtype": "ubinary"}):
            rows, report = mean.encode_with_report(texts, **options)
            assert report == mean.last_report
            assert report.texts == len(texts)
            others = [
                mean.encode(texts, **options),
                np.concatenate(list(mean.stream(texts, **options))),
                asyncio.run(mean.aencode(texts, **options)),
            ]
            for other in others:
                assert other.dtype == rows.dtype
                # Another batch adds in another order; a step of int8 is a 255th of a range.
                np.testing.assert_allclose(other.astype(np.float64), rows, rtol=0, atol=1 if "dtype" in options else 1e-5)

    def test_a_size_that_nobody_named_is_a_warning_on_the_callers_line(self, mean):
        calls: list[Callable[[], object]] = [
            lambda: mean.encode(["a"], dimensions=3),
            lambda: mean.encode_query(["a"], dimensions=3),
            lambda: mean.encode_with_report(["a"], dimensions=3),
            lambda: mean.stream(["a"], dimensions=3),
        ]
        for call in calls:
            with pytest.warns(DimensionsWarning, match="dimensions is 3, this bundle names 2, 4, 6") as caught:
                call()
            assert [warning.filename for warning in caught] == [__file__]
        with pytest.warns(DimensionsWarning):
            assert asyncio.run(mean.aencode(["a"], dimensions=3)).shape == (1, 3)

    def test_a_zero_vector_behind_the_cut_is_refused(self, make_bundle):
        """Its first numbers are all that is given, and they have no direction."""

        def headless(weights: np.ndarray) -> np.ndarray:
            return np.where(np.arange(HIDDEN) < 2, np.float32(0), weights)

        with Encoder.load(make_bundle(type_ids=False, change_weights=headless, normalize=True, truncate_dim=2), threads=1) as encoder:
            for options in ({}, {"dimensions": 2}, {"dimensions": 2, "normalize": False}):
                with pytest.raises(InvalidVectorError, match="the vector of text 0 has only zeros"):
                    encoder.encode(["a", "b"], **options)
            assert encoder.encode(["a"], dimensions=HIDDEN).shape == (1, HIDDEN)


class TestPrompts:
    def test_a_prompt_goes_before_the_text_and_the_first_of_a_pair(self, mean):
        plain = ["find the dog: " + text for text in TEXTS]
        same(mean.encode(TEXTS, prompt_name="query"), mean.encode(plain, prompt=""))
        same(mean.encode(TEXTS, prompt="find the dog: "), mean.encode(plain, prompt=""))
        same(mean.encode(PAIRS, prompt_name="query"), mean.encode([("find the dog: " + a, b) for a, b in PAIRS], prompt=""))

    def test_queries_and_documents(self, mean):
        """As sentence-transformers 6: a document has the prompt `document`, which every model has, and none goes by another name."""
        same(mean.encode_query(TEXTS), mean.encode(TEXTS, prompt_name="query"))
        same(mean.encode_document(TEXTS), mean.encode(TEXTS, prompt=""))
        same(mean.encode_query(TEXTS, prompt="a "), mean.encode(TEXTS, prompt="a "))
        assert mean.encode_document(TEXTS, dimensions=4, dtype="binary", normalize=False).shape == (len(TEXTS), 1)

    def test_a_prompt_is_part_of_what_is_cut_and_reported(self, mean_bundle):
        fits = "a b c d e f g h i j k l m n"  # 14 tokens and two special ones
        with Encoder.load(mean_bundle, threads=1) as encoder:
            encoder.encode([fits], prompt="")
            assert not encoder.last_report.truncated
            with pytest.warns(TruncationWarning, match="text 0 by 1 tokens") as caught:
                _, report = encoder.encode_with_report([fits])  # "cat " is a token
            assert [warning.filename for warning in caught] == [__file__]
            assert [(cut.index, cut.removed_tokens) for cut in report.truncated] == [(0, 1)]
            assert report.tokens == MAX_LENGTH
        with Encoder.load(mean_bundle, threads=1, on_overflow="raise") as strict, pytest.raises(TextTooLongError, match="has 17 tokens"):
            strict.encode([fits])

    def test_the_index_of_an_error_is_the_texts(self, mean):
        with pytest.raises(TextError, match="text 1 has a lone surrogate"):
            mean.encode(["a", "\ud800"], prompt_name="query")
        with pytest.raises(TextError, match="text 2 has a lone surrogate"):
            list(mean.stream(["a", "b", "\ud800"], prompt_name="query"))

    def test_an_unknown_name_is_told_at_once(self, mean):
        for call in (mean.encode, mean.stream, mean.encode_with_report, mean.tokens):
            with pytest.raises(UsageError, match="prompt_name is 'title', this bundle has query, document, passage, empty"):
                call(["a"], prompt_name="title")


@pytest.fixture(scope="module", params=["mean", "cls"])
def bundle_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle whose vectors leave a prompt out, and the same that does not."""
    folder = tmp_path_factory.mktemp("left-out")
    options = {"pooling": request.param, "token_rows": True, "prompts": PROMPTS}
    return build_bundle(folder / "left-out", include_prompt=False, **options), build_bundle(folder / "pooled", **options)


class TestPromptsLeftOut:
    """include_prompt is false: a prompt's tokens are read and not pooled."""

    @pytest.fixture
    def leaving(self, bundle_of):
        with Encoder.load(bundle_of[0], threads=2, token_budget=64, on_overflow="truncate") as encoder:
            yield encoder

    @staticmethod
    def expected(encoder: Encoder, texts: list, prompt: str, count: int) -> np.ndarray:
        """Pooled by numpy, without the first `count` rows."""
        rows = [rows[min(count, len(rows)) :] for rows in states(encoder, texts, prompt=prompt)]
        if encoder.manifest.pooling == "cls":
            return np.stack([of_text[0] for of_text in rows])
        return np.stack([of_text.mean(0) for of_text in rows])

    def test_what_is_pooled_begins_behind_the_prompt(self, leaving):
        # [CLS] find the dog: each letter of "find" is a token, then "the", "dog" and ":" which is none of the vocabulary.
        count = 1 + 4 + 1 + 1 + 1
        same(leaving.encode(TEXTS, prompt_name="query"), self.expected(leaving, TEXTS, "find the dog: ", count))
        same(leaving.encode(PAIRS, prompt_name="query"), self.expected(leaving, PAIRS, "find the dog: ", count))

    def test_without_a_prompt_nothing_is_left_out(self, leaving, bundle_of):
        with Encoder.load(bundle_of[1], threads=1, on_overflow="truncate") as pooling:
            same(leaving.encode(TEXTS), pooling.encode(TEXTS))
            same(leaving.encode(TEXTS, prompt_name="empty"), pooling.encode(TEXTS))

    def test_a_batch_without_a_prompt_has_the_mask_that_it_had(self, bundle_of):
        engine = WatchedEngine(Bundle.open(bundle_of[0]), threads=1)
        batches: list[TokenBatch] = []
        engine.around = lambda run, batch, outputs: (batches.append(batch), run(batch, outputs))[1]
        with Encoder.of(Bundle.open(bundle_of[0]), engine) as encoder:
            encoder.encode(TEXTS)
            assert {batch.unpooled is None for batch in batches} == {True}
            batches.clear()
            encoder.encode(["the cat", "a"], prompt_name="passage")
        assert [padded(batch).attention_mask.tolist() for batch in batches] == [[[2, 2, 1, 1, 1], [2, 2, 1, 1, 0]]]

    def test_a_prompt_that_fills_the_model_leaves_the_last_token(self, leaving):
        prompt = "a " * MAX_LENGTH
        same(leaving.encode(["b"], prompt=prompt), self.expected(leaving, ["b"], prompt, MAX_LENGTH - 1))

    def test_one_text_with_and_without_a_prompt_is_two(self, leaving):
        """The same characters: of the one, all are pooled, of the other, those behind the prompt."""

        async def both() -> tuple[np.ndarray, np.ndarray]:
            return await asyncio.gather(leaving.aencode(["cat dog"] * 2), leaving.aencode(["dog", "cat dog"], prompt="cat "))

        plain, prompted = asyncio.run(both())
        same(plain, leaving.encode(["cat dog"] * 2))
        same(prompted, leaving.encode(["dog", "cat dog"], prompt="cat "))
        assert np.abs(plain[0] - prompted[0]).max() > 1e-3

    def test_requests_with_different_prompts_share_a_batch(self, bundle_of):
        engine = WatchedEngine(Bundle.open(bundle_of[0]), threads=1)
        shapes: list[tuple[int, ...]] = []
        entered, opened = threading.Event(), threading.Event()

        def held_up(run, batch, outputs):
            shapes.append((batch.texts, batch.longest))
            entered.set()
            assert opened.wait(60)
            return run(batch, outputs)

        engine.around = held_up
        with Encoder.of(Bundle.open(bundle_of[0]), engine) as encoder:

            async def all_at_once() -> list[np.ndarray]:
                first = asyncio.create_task(encoder.aencode(["b"]))
                assert await asyncio.to_thread(entered.wait, 60)
                prompts = ("", "cat ", "find the dog: ", "cat ")
                tasks = [asyncio.create_task(encoder.aencode(["a cat", "dog"], prompt=prompt)) for prompt in prompts]
                await asyncio.sleep(0)  # each runs until it waits
                opened.set()
                await first
                return await asyncio.gather(*tasks)

            rows = asyncio.run(all_at_once())
            assert [shape[0] for shape in shapes] == [1, 6]  # the fourth request is the second again
            for prompt, of_prompt in zip(("", "cat ", "find the dog: ", "cat "), rows, strict=True):
                same(of_prompt, encoder.encode(["a cat", "dog"], prompt=prompt))

    def test_in_a_stream_too(self, leaving, monkeypatch):
        monkeypatch.setattr(leaving._runner, "batching", replace(leaving._runner.batching, window_texts=4))
        texts = [*TEXTS, "a", *TEXTS]
        same(np.concatenate(list(leaving.stream(texts, prompt_name="query"))), leaving.encode(texts, prompt_name="query"))


class TestTokens:
    @given(texts=st.lists(st.text(alphabet="abc theczd,.", max_size=20), max_size=12), prompt=st.sampled_from(["", "cat ", "find"]))
    @settings(max_examples=30)
    def test_a_row_for_each_token_in_any_batch(self, mean, texts, prompt):
        rows = mean.encode(texts, output="tokens", prompt=prompt)
        named = mean.tokens(texts, prompt=prompt)
        assert [of_text.shape for of_text in rows] == [(len(item.ids), HIDDEN) for item in named]
        assert {of_text.dtype for of_text in rows} <= {np.dtype(np.float32)}
        for text, of_text in zip(texts, rows, strict=True):
            np.testing.assert_allclose(of_text, mean.encode([text], output="tokens", prompt=prompt)[0], rtol=0, atol=1e-5)

    def test_repeats_are_copies(self, mean):
        rows = mean.encode(["a cat", "b", "a cat"], output="tokens")
        np.testing.assert_array_equal(rows[0], rows[2])
        rows[0][:] = 0
        assert rows[2].any()
        assert all(of_text.base is None for of_text in rows)  # none holds its batch

    def test_every_way_in_gives_them(self, mean, monkeypatch):
        monkeypatch.setattr(chunks, "WINDOW_BYTES", 4 * HIDDEN * 30)  # about thirty characters a window
        texts = [*TEXTS, LONG, *TEXTS]
        rows = mean.encode(texts, output="tokens")
        blocks = list(mean.stream(texts, output="tokens"))
        assert len(blocks) > 2
        reported, report = mean.encode_with_report(texts, output="tokens")
        assert [cut.index for cut in report.truncated] == [len(TEXTS)]
        merged = asyncio.run(mean.aencode(texts, output="tokens"))
        for other in ([rows for block in blocks for rows in block], reported, merged):
            assert len(other) == len(texts)
            for ours, theirs in zip(other, rows, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        assert mean.encode([], output="tokens") == asyncio.run(mean.aencode([], output="tokens")) == []

    def test_merged_with_requests_for_other_outputs(self, mean):
        async def all_at_once() -> list:
            outputs = ("tokens", "sentence", "tokens")
            return await asyncio.gather(*(mean.aencode(["a cat", output], output=output) for output in outputs))

        for output, rows in zip(("tokens", "sentence", "tokens"), asyncio.run(all_at_once()), strict=True):
            for ours, theirs in zip(rows, mean.encode(["a cat", output], output=output), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)

    def test_half_precision_and_unit_length(self, mean):
        plain = mean.encode(["a cat"], output="tokens")[0]
        same(mean.encode(["a cat"], output="tokens", normalize=True)[0], unit(plain))
        np.testing.assert_array_equal(mean.encode(["a cat"], output="tokens", dtype="float16")[0], plain.astype(np.float16))

    def test_a_window_of_tokens_is_small(self):
        assert chunks.most_characters("last_hidden_state", 1024) * 1024 * 4 == chunks.WINDOW_BYTES
        assert chunks.most_characters("last_hidden_state", 2**30) == 1
        assert chunks.most_characters("sentence_embedding", 1024) == chunks.WINDOW_CHARACTERS

    def test_rows_of_another_shape_are_refused(self, mean_bundle):
        engine = WatchedEngine(Bundle.open(mean_bundle), threads=1)
        engine.around = lambda run, batch, outputs: [run(batch, outputs)[0][:, :1]]
        with (
            Encoder.of(Bundle.open(mean_bundle), engine) as encoder,
            pytest.raises(BundleError, match=r"last_hidden_state is float32 \[4, 1\] for a batch of 1 texts, expected float32 \[4, 8\]"),
        ):
            encoder.encode(["a"], output="tokens")

    def test_an_invalid_row_names_its_token_and_text(self, tmp_path):
        def damage(weights: np.ndarray) -> np.ndarray:
            weights = weights.copy()
            weights[VOCABULARY.index("z")] = 0
            return weights

        folder = build_bundle(tmp_path / "damaged", type_ids=False, pooling="mean", token_rows=True, change_weights=damage)
        engine = WatchedEngine(Bundle.open(folder), threads=1)

        def zeros_for_z(run: Callable, batch: object, outputs: object) -> list[np.ndarray]:
            (rows,) = run(batch, outputs)
            rows[batch.input_ids == VOCABULARY.index("z")] = 0
            return [rows]

        engine.around = zeros_for_z
        with Encoder.of(Bundle.open(folder), engine) as encoder, pytest.raises(InvalidVectorError) as caught:
            encoder.encode(["a", "b z"], output="tokens")
        assert str(caught.value).startswith("the vector of token 2 of text 1 has only zeros")
        assert caught.value.index == 1

    def test_a_bundle_without_them_says_how_to_get_them(self, encoder):
        with pytest.raises(UsageError, match="output is 'tokens', this bundle has sentence, cls, pooler, logits; export it with --tokens"):
            encoder.encode(["a"], output="tokens")


class TestTokensInWords:
    def test_what_the_vocabulary_calls_them_and_where_they_are(self, mean):
        (found,) = mean.tokens(["the Cats!"], prompt="")
        assert found.tokens == ("[CLS]", "the", "cat", "##s", "!", "[SEP]")
        assert found.offsets == ((0, 0), (0, 3), (4, 7), (7, 8), (8, 9), (0, 0))
        assert found.ids == tuple(VOCABULARY.index(token) for token in found.tokens)
        assert found.truncated is None

    def test_a_prompt_counts(self, mean):
        (found,) = mean.tokens(["dog"])
        assert found.tokens == ("[CLS]", "cat", "dog", "[SEP]")
        assert found.offsets == ((0, 0), (0, 3), (4, 7), (0, 0))
        assert mean.tokens(["dog"], prompt_name="query")[0].tokens[:3] == ("[CLS]", "f", "##i")

    def test_each_text_of_a_pair_counts_from_its_own_beginning(self, mean):
        (found,) = mean.tokens([("a cat", "the dog")], prompt="")
        assert found.tokens == ("[CLS]", "a", "cat", "[SEP]", "the", "dog", "[SEP]")
        assert found.offsets == ((0, 0), (0, 1), (2, 5), (0, 0), (0, 3), (4, 7), (0, 0))

    def test_cut_as_encode_cuts(self, mean_bundle):
        with Encoder.load(mean_bundle, threads=1) as encoder:
            with pytest.warns(TruncationWarning, match="text 1 by 46 tokens") as caught:
                found = encoder.tokens(["a", LONG], prompt="")
            assert [warning.filename for warning in caught] == [__file__]
        assert len(found[1].ids) == len(found[1].tokens) == len(found[1].offsets) == MAX_LENGTH
        assert (found[1].tokens[0], found[1].tokens[-1]) == ("[CLS]", "[SEP]")
        assert found[1].offsets[-2] == (15 * 4 + 4, 15 * 4 + 7)
        assert found[1].truncated is not None
        assert found[1].truncated.removed_tokens == 60 - (MAX_LENGTH - 2)
        with Encoder.load(mean_bundle, threads=1, on_overflow="raise") as strict, pytest.raises(TextTooLongError, match="text 1 has"):
            strict.tokens(["a", LONG])

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_a_long_text_is_read_in_part_and_its_places_are_those_of_the_whole(self, make_bundle, side):
        text = " ".join(f"dog {number}" for number in range(20_000))
        folder = make_bundle(tokenizer_config={"truncation_side": side}, tokenizer=word_piece())
        with Encoder.load(folder, threads=1, on_overflow="truncate") as encoder:
            (found,) = encoder.tokens([text])
        assert found.truncated is not None
        assert found.truncated.at_least
        for token, (start, stop) in zip(found.tokens, found.offsets, strict=True):
            if token not in SPECIAL:
                assert text[start:stop] == token.removeprefix("##")
        assert (found.offsets[1] == (0, 3)) == (side == "right")
        assert (found.offsets[-2][1] == len(text)) == (side == "left")

    def test_refusals_are_those_of_encode(self, mean):
        with pytest.raises(TypeError, match="texts is a str"):
            mean.tokens("a text")
        with pytest.raises(TypeError, match="text 1 is None"):
            mean.tokens(["a", None])
        with pytest.raises(TextError, match="text 0 has a lone surrogate"):
            mean.tokens(["\ud800"])


class TestFewerBytes:
    def test_the_ranges_are_those_of_the_golden_texts(self, mean):
        golden = raw(mean, list(GOLDEN_TEXTS))
        for options, rows in (
            ({}, unit(golden)[:, :6]),
            ({"normalize": True}, unit(golden[:, :6])),
            ({"dimensions": 4}, unit(golden[:, :4])),
            ({"dimensions": HIDDEN, "normalize": False}, golden),
        ):
            ranges = mean.ranges(**options)
            assert ranges.dtype == np.float32
            np.testing.assert_allclose(ranges, [rows.min(0), rows.max(0)], rtol=0, atol=ATOL)
        assert mean.ranges(output="logits").shape == (2, 3)
        with pytest.raises(ValueError, match="read-only"):
            mean.ranges()[0] = 0

    @pytest.mark.parametrize("dtype", ["int8", "uint8"])
    @pytest.mark.parametrize("options", [{}, {"dimensions": 4}, {"output": "logits"}, {"normalize": False}])
    def test_a_text_has_the_same_bytes_in_any_batch(self, mean, dtype, options):
        ranges = mean.ranges(**options)
        rows = mean.encode(TEXTS, dtype=dtype, **options)
        plain = mean.encode(TEXTS, **options)
        np.testing.assert_array_equal(rows, quantized(plain, dtype, ranges=ranges))
        np.testing.assert_array_equal(
            mean.encode(TEXTS[:1], dtype=dtype, **options)[0], quantized(mean.encode(TEXTS[:1], **options), dtype, ranges=ranges)[0]
        )

    def test_given_ranges_decide(self, mean):
        ranges = np.array([[-2.0] * 6, [2.0] * 6])  # float64, as a list would be
        rows = mean.encode(TEXTS, dtype="uint8", ranges=ranges.tolist())
        np.testing.assert_array_equal(rows, quantized(mean.encode(TEXTS), "uint8", ranges=ranges.astype(np.float32)))

    def test_bits(self, mean):
        plain = mean.encode(TEXTS)
        assert mean.encode(TEXTS, dtype="ubinary").tolist() == np.packbits(plain > 0, axis=-1).tolist()
        assert (mean.encode(TEXTS, dtype="binary").astype(int) + 128).tolist() == np.packbits(plain > 0, axis=-1).tolist()
        assert mean.encode([], dtype="binary").shape == (0, 1)

    def test_float16_refuses_what_it_cannot_hold(self, make_bundle):
        with Encoder.load(make_bundle(change_weights=lambda weights: weights * np.float32(1e6)), threads=1) as encoder:
            with pytest.raises(InvalidVectorError, match="the vector of text 0 has .* at most, float16 ends at 65504; use float32"):
                encoder.encode(["a"], dtype="float16")
            assert encoder.encode(["a"], dtype="float16", normalize=True).dtype == np.float16

    def test_a_bundle_without_golden_vectors_has_no_ranges_of_its_own(self, encoder):
        with pytest.raises(BundleError, match="names no golden.npz"):
            encoder.encode(["a"], dtype="int8")
        assert encoder.encode(["a"], dtype="int8", ranges=[[-1.0] * HIDDEN, [1.0] * HIDDEN]).dtype == np.int8
        assert encoder.encode(["a"], dtype="binary").shape == (1, 1)

    @pytest.mark.parametrize("damage", [lambda rows: rows[:, :5], lambda rows: rows * np.float32(np.nan)], ids=["narrow", "NaN"])
    def test_golden_vectors_that_are_not_the_graphs_give_no_ranges(self, damage, tmp_path):
        folder = build_golden_bundle(tmp_path / "bundle")
        golden = read_golden(folder / GOLDEN_NAME)
        replace_golden(folder, dataclasses.replace(golden, vectors={**golden.vectors, "cls": damage(golden.vectors["cls"])}))
        with Encoder.load(folder, threads=1) as encoder, pytest.raises(BundleError, match=f"expected {HIDDEN} finite ones; run cls-verify"):
            encoder.encode(["a"], dtype="int8")

    def test_ranges_of_another_bundle_are_refused(self, tmp_path):
        """The folder was replaced behind the encoder's back."""
        with Encoder.load(build_golden_bundle(tmp_path / "bundle"), threads=1) as encoder:
            (tmp_path / "bundle").rename(tmp_path / "old")
            build_golden_bundle(tmp_path / "bundle", pooling="mean")
            with pytest.raises(BundleError, match="fingerprint"):
                encoder.encode(["a"], dtype="int8")


class TestTheRest:
    def test_similarity_is_the_models(self, mean, encoder):
        a, b = mean.encode(TEXTS, normalize=False), mean.encode(TEXTS[:2], normalize=False)
        np.testing.assert_allclose(mean.similarity(a, b), a @ b.T, rtol=1e-5)
        np.testing.assert_allclose(encoder.similarity(a, b), unit(a) @ unit(b).T, rtol=0, atol=ATOL)

    def test_a_bar_where_it_is_asked_for(self, mean, capfd, monkeypatch):
        pytest.importorskip("tqdm")
        mean.encode(TEXTS * 100)
        assert capfd.readouterr().err == ""
        mean.encode([f"cat {number}" for number in range(600)], show_progress=True)
        assert "600/600" in capfd.readouterr().err
        monkeypatch.setitem(sys.modules, "tqdm", None)
        with pytest.raises(MissingExtraError, match="tqdm, which is not installed; run: pip install tqdm"):
            mean.encode(["a"], show_progress=True)
        mean.encode(["a"])

    def test_a_copy_in_another_process_gives_the_same(self, mean):
        with pickle.loads(pickle.dumps(mean)) as copy:
            for options in ({}, {"dtype": "int8"}, {"prompt_name": "query"}):
                np.testing.assert_array_equal(copy.encode(TEXTS, **options), mean.encode(TEXTS, **options))

    def test_a_text_without_a_prompt_costs_no_more_than_it_did(self, encoder, monkeypatch):
        """Counted: nothing of prompts runs, for no text."""

        def never(*_: object, **__: object) -> None:
            raise AssertionError("called without a prompt")

        for name in ("with_prompt", "prompt_length", "text_tokens"):
            monkeypatch.setattr(f"cls_runtime.encoder.{name}", never)
        encoder.encode(TEXTS)
        list(encoder.stream(TEXTS))
        asyncio.run(encoder.aencode(TEXTS))

    def test_manifest_of_0_1_is_used_as_ever(self, encoder):
        assert dataclasses.replace(encoder.manifest, prompts={}, truncate_dim=None) == encoder.manifest
        np.testing.assert_array_equal(encoder.encode(TEXTS), encoder.encode(TEXTS, output="cls", normalize=False))

"""A tokenizer.json is data: whatever it says, a bundle opens and tokenizes, or ends in one line."""

import base64
import contextlib
import dataclasses
import io
import json
import random
import types

import pytest
from bundle_builder import VOCABULARY, build_bundle, describe, word_piece, write_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_mutations import mutated
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from cls_runtime import Bundle, BundleError
from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.encoding import tokenizer_files
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.encoding.tokenizer_form import MAX_GROWTH, check_form
from cls_runtime.errors import ClsError, TextError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle of this module's own: its tokenizer is written anew by each test."""
    return build_bundle(tmp_path_factory.mktemp("form") / "bundle")


def saved():
    return json.loads(word_piece().to_str())


def with_tokenizer(folder, text, *, config=None):
    """The bundle with this tokenizer.json, and with this config.json where one is given; its manifest fits."""
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    names = ["tokenizer.json", "tokenizer_config.json"]
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
        names.append("config.json")
    manifest = read_manifest(folder)
    files = tuple(describe(folder, name) for name in names)
    write_manifest(folder, dataclasses.replace(manifest, files=files, fingerprint=""))
    return Bundle.open(folder)


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps, name="normalizers"):
    return {"type": "Sequence", name: list(steps)}


def table(*replacements):
    """A table of SentencePiece with these replacements, and a trie of nothing."""
    body = b"".join(text.encode() + b"\0" for text in replacements)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode((4).to_bytes(4, "little") + bytes(4) + body).decode()}


CLS = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
TEXT, OTHER = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
UNIGRAM = {"type": "Unigram", "unk_id": 0}


def template(single=(CLS, TEXT), pair=(CLS, TEXT, OTHER), ids=(2,), **tokens):
    special = {"[CLS]": {"id": "[CLS]", "ids": list(ids), "tokens": ["[CLS]"] * len(ids)}}
    return {"type": "TemplateProcessing", "single": list(single), "pair": list(pair), "special_tokens": special | tokens}


def added(content, number=5):
    switches = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return [{"id": number, "content": content, **switches}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_tokenizer": split("(a+)+$")}, "its pattern '\\(a.*' may take for ever on some text: it has '\\(' at character 0"),
        ({"pre_tokenizer": split("(?:a|a)*b")}, "may take for ever"),
        ({"pre_tokenizer": sequence(split("a+b"), name="pretokenizers")}, "it goes back over what it has read"),
        ({"normalizer": replace("(x+x+)+y", "z", "Regex")}, "may take for ever"),
        ({"normalizer": replace("a" * 5000, "z", "Regex")}, "it has 5,000 characters"),
        (
            {"normalizer": sequence(*[replace("a", "a" * 1000)] * 4)},
            "a text 1,000,000,000,000 times as long, expected at most 128",
        ),
        ({"normalizer": sequence(*[replace("a", "aa")] * 8)}, "may make a text 256 times as long"),
        ({"normalizer": replace("", "a" * 200)}, "may make a text 201 times as long"),
        ({"normalizer": replace("a*", "a" * 200, "Regex")}, "may make a text 201 times as long"),
        ({"normalizer": sequence(*[{"type": "ByteLevel"}] * 8)}, "may make a text 256 times as long"),
        ({"pre_tokenizer": sequence(*[{"type": "ByteLevel"}] * 8, name="pretokenizers")}, "may make a text 256 times as long"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}}, "what is put before a text has 1,000,000 bytes"),
        ({"normalizer": sequence(*[{"type": "NFC"}] * 1000)}, "more than 100 normalizers"),
        ({"normalizer": table("a" * 1000)}, "may make a text 333 times as long"),
        ({"normalizer": sequence(table("aaa"), table("aaa"))}, "2 tables of SentencePiece, expected one"),
        ({"normalizer": table() | {"precompiled_charsmap": "AAAA"}}, "is not a table of SentencePiece"),
        ({"normalizer": table() | {"precompiled_charsmap": "?"}}, "is not a table of SentencePiece"),
        ({"normalizer": table() | {"precompiled_charsmap": None}}, "precompiled_charsmap is None, expected a text"),
        ({"normalizer": {"type": "Newest"}}, "a step of type 'Newest', expected one of BertNormalizer"),
        ({"normalizer": {"pattern": {"String": "a"}, "content": "aa"}}, "a step of type None"),
        ({"normalizer": {"type": ["Replace"]}}, r"a step of type \['Replace'\]"),
        ({"normalizer": sequence()["normalizers"]}, r"a step is \[\], expected an object"),
        ({"normalizer": replace("a", 5)}, "content is 5, expected a text"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": "a", "String": "a"}, "content": ""}}, "expected String or Regex"),
        ({"added_tokens": added("a" * 2000)}, "an added token has 2,000 bytes, expected at most 1,000"),
        ({"added_tokens": added("a", 2**31)}, "an id is 2147483648, expected 0 to 2147483647"),
        ({"added_tokens": 5}, "added_tokens is 5, expected a list"),
        ({"post_processor": template([CLS] * 5000 + [TEXT])}, "a text needs more than 5000 tokens"),
        ({"post_processor": template(ids=[2] * 5000)}, "a text needs more than 5000 tokens"),
        ({"post_processor": template(pair=[CLS] * 16 + [TEXT, OTHER])}, "a pair needs more than 16 tokens"),
        ({"post_processor": template([CLS, TEXT, TEXT])}, r"single takes the texts \['A', 'A'\], expected \['A'\]"),
        ({"post_processor": template([CLS])}, r"single takes the texts \[\]"),
        ({"post_processor": template([CLS, OTHER])}, r"single takes the texts \['B'\]"),
        ({"post_processor": template(pair=[CLS, TEXT])}, r"pair takes the texts \['A'\], expected \['A', 'B'\]"),
        (
            {"post_processor": template([{"SpecialToken": {"id": "[X]", "type_id": 0}}, TEXT])},
            r"names '\[X\]', which is not among",
        ),
        ({"post_processor": template(ids=[2**31])}, "an id is 2147483648"),
        ({"post_processor": template([{"SpecialToken": {"id": "[CLS]", "type_id": 2**31}}, TEXT])}, "an id is 2147483648"),
        ({"post_processor": sequence(template(), template(), name="processors")}, "adds special tokens 2 times"),
        ({"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2**31], "cls": ["[CLS]", 2]}}, "an id is 2147483648"),
        ({"model": {"max_input_chars_per_word": 10**9}}, "max_input_chars_per_word is 1,000,000,000, expected at most 500"),
        ({"model": {"continuing_subword_prefix": "#" * 10**6}}, "continuing_subword_prefix has 1,000,000 characters"),
        ({"model": {"unk_token": "[NONE]"}}, "tokenizer.json (is not a tokenizer|cannot be used)"),
        ({"model": {"vocab": {token: number + 2**31 for number, token in enumerate(VOCABULARY)}}}, "an id is|the token id 21474836"),
        ({"model": {"vocab": {"a": 2**40}}}, "is not a tokenizer of a bundle"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.5}}, "its dropout is 0.5"),
        (
            {"model": {**UNIGRAM, "vocab": [["a", -1.0], ["b" * 600, -2.0]]}},
            "it has a piece of 600 bytes, expected at most 512",
        ),
        (
            {"model": {**UNIGRAM, "vocab": [["a", -1.0], ['b"' * 300, -2.0]]}},
            "it has a piece of 600 bytes, expected at most 512",
        ),
        (
            {"model": {**UNIGRAM, "vocab": [["a\\", -1.0], ["\\" * 400 + '"' * 200, -2.0]]}},
            "it has a piece of 600 bytes, expected at most 512",
        ),
        ({"model": {**UNIGRAM, "vocab": [["a", -1.0], ["\\" * 600, -2.0]]}}, "it has more than 1024 backslashes in a row"),
        (
            {"model": {**UNIGRAM, "vocab": [["a", -1.0], *([f"{number:06}" + "b" * 494, -2.0] for number in range(9000))]}},
            r"its pieces have 4,4\d\d,\d\d\d beginnings, expected at most 4,194,304",
        ),
        ({"added_tokens": added("a" * 1000) * 4195}, "its added tokens have 4,195,000 bytes, expected at most 4,194,304"),
        ({"model": {"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]]}}, "cannot be used"),
        ({"padding": 5}, "is not a tokenizer of a bundle"),
        ({"version": "2.0"}, "is not a tokenizer of a bundle"),
    ],
)
@pytest.mark.parametrize("order", ["as it is", "sorted", "model first"])
def test_what_the_library_would_fail_on_is_refused(folder, changes, message, order):
    content = saved()
    model = content.pop("model") | changes.get("model", {})
    content |= {key: value for key, value in changes.items() if key != "model"}
    content = {"model": model, **content} if order == "model first" else {**content, "model": model}
    bundle = with_tokenizer(folder, json.dumps(content, sort_keys=order == "sorted"))
    with pytest.raises(BundleError, match=message) as caught:
        TextTokenizer.from_bundle(bundle)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_settings_behind_the_model_or_in_escapes_are_seen(folder):
    text = json.dumps(saved())
    bad = json.dumps(sequence(*[replace("a", "a" * 1000)] * 4))
    for key in ('"normalizer"', '"\\u006eormalizer"'):
        with pytest.raises(BundleError, match="times as long|is there twice"):
            TextTokenizer.from_bundle(with_tokenizer(folder, f"{text[:-1]}, {key}: {bad}}}"))


def test_a_vocabulary_may_have_the_words_of_the_file(folder):
    words = ["model", "normalizer", '"model"', "added_tokens", "\\u00e4", "\x7f"]
    content = saved()
    content["model"]["vocab"] |= {word: len(VOCABULARY) + number for number, word in enumerate(words)}
    tokenizer = TextTokenizer.from_bundle(with_tokenizer(folder, json.dumps(content)))
    assert tokenizer.tokenize(["model"]).ids.tolist() == [2, len(VOCABULARY), 3]


SPACES = replace(" {2,}", " ", "Regex")
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        sequence(*[{"type": kind} for kind in ("NFD", "Lowercase", "StripAccents", "Nmt", "NFKC", "NFC", "NFKD")]),
        {"type": "Strip", "strip_left": True, "strip_right": True},
        # As albert, deberta-v2, camembert, a table of 33 bytes as in nmt_nfkc, and Llama's kind
        sequence(
            replace("``", '"'),
            replace("''", '"'),
            {"type": "NFKD"},
            {"type": "StripAccents"},
            table("a" * 33),
            replace(" {2,}", " ", "Regex"),
        ),
        sequence(table("a" * 33), replace(" ", "▁")),
        sequence({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        replace(r"\\s{2,}|[\\n\\r\\t]", " ", "Regex"),
    ],
)
@pytest.mark.parametrize(
    "splitter",
    [
        {"type": "WhitespaceSplit"},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        sequence(
            {"type": "WhitespaceSplit"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            name="pretokenizers",
        ),
        sequence({"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Isolated"}, name="pretokenizers"),
    ],
)
def test_steps_of_real_families_pass(normalizer, splitter):
    check_form(json.dumps(saved() | {"normalizer": normalizer, "pre_tokenizer": splitter}).encode())


def test_a_table_that_sentencepiece_made_passes():
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    from sentencepiece import sentencepiece_model_pb2

    made = io.BytesIO()
    texts = iter(["the cat sleeps", "a dog runs"] * 20)
    trainer.train(sentence_iterator=texts, model_writer=made, vocab_size=30, hard_vocab_limit=False, minloglevel=2)
    model = sentencepiece_model_pb2.ModelProto.FromString(made.getvalue())
    precompiled = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    tokenizer = word_piece()
    tokenizer.normalizer = normalizers.Sequence([precompiled, normalizers.Replace(pattern=" ", content="▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    check_form(tokenizer.to_str().encode())


@pytest.mark.parametrize(("size", "refused"), [(len(VOCABULARY), False), (10, True), (None, False), ("x", False), (-1, False)])
def test_ids_are_held_to_the_models_vocabulary(folder, size, refused):
    bundle = with_tokenizer(folder, word_piece().to_str(), config={"vocab_size": size})
    if not refused:
        assert len(TextTokenizer.from_bundle(bundle).tokenize(["the ing"])) == 1
        return
    with pytest.raises(BundleError, match="has the token id .*, the model knows ids up to 9"):
        TextTokenizer.from_bundle(bundle).tokenize(["the"])


class Panic(BaseException):
    """What pyo3 raises where Rust code panics."""


Panic.__module__, Panic.__name__ = "pyo3_runtime", "PanicException"


@pytest.mark.parametrize(
    ("error", "seen_as"), [(Panic("no entry\nfound"), ClsError), (KeyboardInterrupt(), KeyboardInterrupt), (MemoryError(), MemoryError)]
)
def test_a_panic_is_one_line_and_ctrl_c_is_not(folder, monkeypatch, error, seen_as):
    def raising(*_):
        raise error

    bundle = with_tokenizer(folder, word_piece().to_str())
    tokenizer = TextTokenizer.from_bundle(bundle)
    monkeypatch.setattr(tokenizer, "_tokenizer", types.SimpleNamespace(encode=raising))
    with pytest.raises(seen_as) as caught:
        tokenizer.tokenize(["a"])
    assert seen_as is not ClsError or (isinstance(caught.value, TextError) and "no entry found" in str(caught.value))
    monkeypatch.setattr(tokenizer_files, "check_model", raising)
    with pytest.raises(seen_as):
        TextTokenizer.from_bundle(bundle)


TEXTS = ["the cat sleeps", "", ("a", "dog"), "ä \x00 [SEP] 日本 " * 30]


@settings(max_examples=200)
@given(data=st.data())
def test_any_mutation_is_used_or_one_clear_error(folder, data):
    content = saved()
    model = content["model"]
    model["vocab"] = dict(random.Random(1).sample(sorted(model["vocab"].items()), 12)) | {"[UNK]": 1, "[PAD]": 0}
    bundle = with_tokenizer(folder, json.dumps(mutated(data.draw, content)))
    with contextlib.suppress(ClsError):
        assert TextTokenizer.from_bundle(bundle).tokenize(TEXTS).lengths.max() <= bundle.manifest.max_length


def test_growth_is_what_the_library_does():
    """The bound is on what a text really becomes."""
    steps = [replace("a", "bbbb"), {"type": "ByteLevel"}, replace("b", "cc")]
    tokenizer = Tokenizer.from_str(json.dumps(saved() | {"normalizer": sequence(*steps)}))
    grown = len(tokenizer.normalizer.normalize_str("a" * 100)) / 100
    assert grown <= 4 * 2 * 2 <= MAX_GROWTH
    check_form(json.dumps(saved() | {"normalizer": sequence(*steps)}).encode())

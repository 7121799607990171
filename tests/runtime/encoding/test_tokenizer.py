"""The oracle is transformers' AutoTokenizer, in the same test."""

import dataclasses
import json
import shutil

import pytest
from bundle_builder import MAX_LENGTH, build_bundle, describe, word_piece, write_manifest
from each_text import each_text
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from cls_runtime import Bundle
from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.encoding.texts import characters
from cls_runtime.encoding.tokenizer import BLOCK_CHARACTERS, LONG_CHARACTERS, TextTokenizer
from cls_runtime.encoding.truncating import kept_positions

# Everything that encodes to UTF-8, and texts that are long in tokens.
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
LONG_TEXT = st.lists(
    st.sampled_from(["the", "cat", "sleeping", "unbelievable", "naïve", "日本", "[SEP]", "[MASK]", "\0", "🙂"]), max_size=40
).map(" ".join)
TEXT = ANY_TEXT | LONG_TEXT
ITEM = TEXT | st.tuples(TEXT, TEXT)


class Oracle:
    """transformers on the same files, one item at a time, cut to the same length."""

    def __init__(self, folder, max_length, **options):
        transformers = pytest.importorskip("transformers")
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        self._max_length = max_length

    def __call__(self, item):
        # Lists: called with bare strings, transformers takes an empty second text for none.
        pair = ([item],) if isinstance(item, str) else ([item[0]], [item[1]])
        encoding = self._tokenizer(*pair, truncation=True, max_length=self._max_length, return_token_type_ids=True)
        return encoding["input_ids"][0], encoding["token_type_ids"][0]


def assert_agreement(ours, oracle, items, **options):
    """Fails where an item gets other ids or type ids from `ours` than from the oracle."""
    for item, tokens in zip(items, each_text(ours.tokenize(items, **options)), strict=True):
        assert (tokens.ids, tokens.type_ids) == oracle(item)


@pytest.fixture(scope="module")
def tiny(bundle):
    return TextTokenizer.from_bundle(Bundle.open(bundle)), Oracle(bundle, MAX_LENGTH)


@pytest.fixture(scope="module")
def tiny_left(tmp_path_factory):
    folder = build_bundle(tmp_path_factory.mktemp("left") / "left", tokenizer_config={"truncation_side": "left"})
    return TextTokenizer.from_bundle(Bundle.open(folder)), Oracle(folder, MAX_LENGTH)


@pytest.fixture(scope="module")
def real(minilm, bundle, tmp_path_factory):
    """all-MiniLM-L6-v2's own tokenizer files, which carry truncation and padding to 128, in a bundle with a maximum of 24."""
    folder = shutil.copytree(bundle, tmp_path_factory.mktemp("real") / "real")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(minilm / name, folder / name)
    manifest = read_manifest(folder)
    files = (describe(folder, "tokenizer.json"), describe(folder, "tokenizer_config.json"))
    write_manifest(folder, dataclasses.replace(manifest, max_length=24, files=files, fingerprint=""))
    return TextTokenizer.from_bundle(Bundle.open(folder)), Oracle(minilm, 24)


@settings(max_examples=150)
@given(items=st.lists(ITEM, min_size=1, max_size=4))
def test_agrees_with_transformers(tiny, items):
    assert_agreement(*tiny, items)


@settings(max_examples=100)
@given(items=st.lists(ITEM, min_size=1, max_size=4))
def test_agrees_with_transformers_cutting_on_the_left(tiny_left, items):
    assert_agreement(*tiny_left, items)


@settings(max_examples=100)
@given(items=st.lists(ITEM, min_size=1, max_size=4), left=st.booleans())
def test_a_call_may_cut_on_the_other_side(tiny, tiny_left, items, left):
    """Either bundle cuts where the call says, as transformers does where the tokenizer's files say it."""
    oracle = tiny_left[1] if left else tiny[1]
    for ours in (tiny[0], tiny_left[0]):
        assert_agreement(ours, oracle, items, truncate_left=left)


@pytest.mark.parametrize(
    ("item", "same_end"),
    [
        ("dog cat " * 40_000, "dog cat " * 30),
        (("dog " * 30_000, "the cat " * 20_000), ("dog " * 30, "the cat " * 30)),
        (("dog", "the cat " * 40_000), ("dog", "the cat " * 30)),
    ],
)
def test_a_call_may_cut_a_huge_text_on_the_left(tiny, tiny_left, item, same_end):
    """Of more characters than are tokenized at once. The oracle gets the end that stays, since of a huge pair it makes every product."""
    assert characters(item) > LONG_CHARACTERS[0]
    (tokens,) = each_text(tiny[0].tokenize([item], truncate_left=True))
    assert tokens.ids == tiny_left[1](same_end)[0]
    assert tokens.removed > 60_000 or tokens.at_least


@settings(max_examples=150)
@given(items=st.lists(ITEM, min_size=1, max_size=4))
def test_agrees_with_transformers_on_a_real_vocabulary(real, items):
    assert_agreement(*real, items)


@settings(max_examples=60)
@given(first=st.integers(0, 25), second=st.integers(0, 25))
def test_pairs_are_cut_as_transformers_cuts_them(tiny, tiny_left, first, second):
    for ours, oracle in (tiny, tiny_left):
        assert_agreement(ours, oracle, [("cat " * first, "dog " * second)])


def test_the_oracle_notices_another_cut(tiny):
    ours, _ = tiny
    with pytest.raises(AssertionError):
        assert_agreement(ours, lambda item: tiny[1](item[::-1]), [("cat " * 20, "dog " * 3)])


@pytest.mark.parametrize("words", [0, 1, MAX_LENGTH - 2, MAX_LENGTH - 1, 100])
def test_removed_tokens_are_counted(tiny, words):
    ours, _ = tiny
    (tokens,) = each_text(ours.tokenize(["cat " * words]))
    assert len(tokens.ids) == min(words + 2, MAX_LENGTH)
    assert tokens.removed == max(0, words + 2 - MAX_LENGTH)


def test_a_pair_of_huge_texts_is_cut_without_their_product(tiny):
    """The library's own truncation returns every combination of the pieces that it cut off: here 3,000 times 3,000."""
    ours, oracle = tiny
    (tokens,) = each_text(ours.tokenize([("cat " * 50_000, "dog " * 50_000)]))
    assert len(tokens.ids) == MAX_LENGTH
    assert tokens.removed == 100_003 - MAX_LENGTH
    assert tokens.ids == oracle(("cat " * 30, "dog " * 30))[0]


def test_blocks_do_not_change_the_result(tiny, monkeypatch):
    ours, _ = tiny
    items = ["", "the cat", ("a", "b"), "", "dog " * 10, "x"] * 5
    whole = each_text(ours.tokenize(items))
    assert sum(characters(item) for item in items) < BLOCK_CHARACTERS  # all in one block
    for size in (1, 5, 20):
        monkeypatch.setattr("cls_runtime.encoding.tokenizer.BLOCK_CHARACTERS", size)
        assert each_text(ours.tokenize(items)) == whole


def test_the_tokenizers_own_truncation_and_padding_do_not_count(tiny):
    saved = json.loads(word_piece().to_str())
    assert saved["truncation"]["max_length"] == 5
    assert saved["padding"] is not None
    ours, _ = tiny
    assert ours.tokenize(["a", "the cat the cat the cat"]).lengths.tolist() == [3, 8]


def test_no_type_ids_where_the_model_takes_none(make_bundle):
    tokenizer = TextTokenizer.from_bundle(Bundle.open(make_bundle(type_ids=False)))
    assert tokenizer.tokenize([("a", "b")]).type_ids is None


@pytest.mark.parametrize("kinds", [(0, 0, 0), (0, 1, 0), (2, 1, 1)])
def test_type_ids_of_texts_are_those_that_the_tokenizer_gives(kinds):
    """Which are constants of it, and need not be 0 for a text that is no pair."""
    tokenizer = word_piece()
    first, inner, last = kinds
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"[CLS]:{first} $A:{inner} [SEP]:{last}",
        pair=f"[CLS]:{first} $A:{inner} [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    ours = TextTokenizer(tokenizer, max_length=8, pad_id=0, truncate_left=False, with_type_ids=True)
    for items in (["the cat", "a", "the cat " * 9], ["the cat"], ["the cat", ("a", "cat")]):
        encoded = [tokenizer.encode(item) if isinstance(item, str) else tokenizer.encode(*item) for item in items]
        expected = [kinds_of if len(kinds_of) <= 8 else [*kinds_of[:7], kinds_of[-1]] for kinds_of in (one.type_ids for one in encoded)]
        assert [text.type_ids for text in each_text(ours.tokenize(items))] == expected


def test_a_pad_token_may_be_written_as_an_object(make_bundle):
    folder = make_bundle(tokenizer_config={"pad_token": {"content": "[MASK]", "special": True}})
    assert TextTokenizer.from_bundle(Bundle.open(folder)).pad_id == 4


def test_kept_positions_of_a_pair_without_room():
    assert kept_positions([None, 0, None, 1, None], 3).tolist() == [0, 2, 4]

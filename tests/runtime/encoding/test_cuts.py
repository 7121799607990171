"""Long texts: the tokens of a part are those that the whole text has there. The oracle is the whole text, tokenized in the same test."""

from itertools import product

import pytest
from each_text import each_text
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from cls_runtime import TextError
from cls_runtime.encoding import tokenizer as module
from cls_runtime.encoding import truncating
from cls_runtime.encoding.cuts import cuts_of
from cls_runtime.encoding.encodings import EncodingReader
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.encoding.truncating import is_settled

SPECIAL = ["[CLS]", "[SEP]", "[UNK]", "[PAD]", "<mask>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?-'`\"_<>[]/中国éпривет"
WORDS = ["the", "cat", "##at", "ing", "new", "york", "ab", "..", "...", "'s"]


def word_pieces(**options):
    vocabulary = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
    ids = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    return models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=6, **options)


def unigram():
    pieces = [*SPECIAL, "\u2581", *LETTERS.replace("'", ""), "\u2581the", "\u2581cat", "\u2581\u2581", "at", "..", "ab", "new", "york"]
    return models.Unigram([(piece, -1.0 - number / 7) for number, piece in enumerate(dict.fromkeys(pieces))], unk_id=2)


def byte_pairs():
    letters = pre_tokenizers.ByteLevel.alphabet()
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "Ġ"), (".", "."), ("..", ".."), ("Ġ", "c"), ("a", "t"), ("'", "s")]
    tokens = [*SPECIAL, *sorted(letters), *(a + b for a, b in merges)]
    return models.BPE({token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges)


def pipeline(model, normalizer, splitter, *added):
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(SPECIAL[:-1])
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, special=True), *added])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return tokenizer


def metaspace(**options):
    return pre_tokenizers.Metaspace(**options)


ALBERT = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents()]
RUNS = normalizers.Replace(Regex(" {2,}"), " ")
SPACES = [AddedToken(" " * count, normalized=True) for count in (4, 3, 2)]
NEW_YORK = AddedToken("New York", normalized=True)
BERT = pre_tokenizers.BertPreTokenizer()
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)

# As the twelve families have them, and with added tokens that lie across what is a cut elsewhere.
PIPELINES = {
    "bert": lambda: pipeline(word_pieces(), normalizers.BertNormalizer(), BERT),
    "bert, cased": lambda: pipeline(word_pieces(), normalizers.BertNormalizer(lowercase=False, strip_accents=False), BERT),
    "bert, an added phrase": lambda: pipeline(word_pieces(), normalizers.BertNormalizer(), BERT, NEW_YORK),
    "bert, an added word": lambda: pipeline(word_pieces(), normalizers.BertNormalizer(), BERT, AddedToken("dog", single_word=True)),
    "bert, quotes": lambda: pipeline(word_pieces(), normalizers.Sequence(ALBERT[:2]), BERT),
    "bert, added letters": lambda: pipeline(word_pieces(), normalizers.BertNormalizer(), BERT, "ab", "a.b", "..", "国中"),
    "bert, rstrip": lambda: pipeline(word_pieces(), normalizers.BertNormalizer(), BERT, AddedToken("at", rstrip=True)),
    "bert, NFC": lambda: pipeline(word_pieces(), normalizers.NFC(), BERT),
    "roberta": lambda: pipeline(byte_pairs(), None, BYTES),
    "roberta, prefix": lambda: pipeline(byte_pairs(), None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "modernbert": lambda: pipeline(byte_pairs(), normalizers.NFC(), BYTES, *SPACES),
    "digits, bytes": lambda: pipeline(byte_pairs(), None, pre_tokenizers.Sequence([pre_tokenizers.Digits(True), BYTES])),
    "xlm-roberta": lambda: pipeline(
        unigram(), normalizers.NFKC(), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace()])
    ),
    "camembert": lambda: pipeline(
        unigram(), normalizers.NFKC(), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace(prepend_scheme="first")])
    ),
    "albert": lambda: pipeline(unigram(), normalizers.Sequence([*ALBERT, normalizers.Lowercase(), RUNS]), metaspace()),
    "sentencepiece": lambda: pipeline(
        unigram(),
        normalizers.Sequence([normalizers.Nmt(), normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "\u2581")]),
        metaspace(),
        AddedToken("at", rstrip=True),
        "the c",
    ),
    "deberta": lambda: pipeline(
        unigram(),
        normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.Strip()]),
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), metaspace(prepend_scheme="first")]),
    ),
    "metaspace, first": lambda: pipeline(unigram(), normalizers.Replace(" ", "\u2581"), metaspace(prepend_scheme="first")),
    "metaspace, never": lambda: pipeline(unigram(), normalizers.Strip(), metaspace(prepend_scheme="never")),
    "whitespace": lambda: pipeline(word_pieces(), normalizers.Lowercase(), pre_tokenizers.Whitespace()),
}

# Of these nothing is known that would make a cut exact.
WITHOUT_CUTS = {
    "one word": lambda: pipeline(unigram(), None, None),
    "metaspace, one word": lambda: pipeline(unigram(), None, metaspace(split=False)),
    "bytes, one word": lambda: pipeline(byte_pairs(), None, pre_tokenizers.ByteLevel(use_regex=False)),
    "any pattern": lambda: pipeline(byte_pairs(), None, pre_tokenizers.Split(Regex(r"a b|."), "isolated")),
    "prepend": lambda: pipeline(byte_pairs(), normalizers.Prepend("x"), pre_tokenizers.FixedLength(3)),
    "letters replaced": lambda: pipeline(word_pieces(), normalizers.Replace("a", " "), BERT),
    "any run replaced": lambda: pipeline(word_pieces(), normalizers.Replace(Regex("a b"), "c"), BERT),
}

PIECES = [
    *" \t\n.,'`<[",
    "  ",
    "\r\n",
    "a",
    "A",
    "7",
    "the",
    "The",
    "cat",
    "dog",
    "sleeping",
    "unbelievable",
    "new",
    "New York",
    "'s",
    "``",
    "...",
    "x" * 40,
]
PIECES += [
    "é",
    "e\u0301",
    "\u0301",
    "中",
    "国",
    "中国",
    "привет",
    "\u200b",
    "ﬁ",
    "\u3000",
    "🙂",
    "[SEP]",
    "<mask>",
    " <mask> ",
    "\u2581",
    "\u037a",
    "_",
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@pytest.fixture(scope="module", params=PIPELINES)
def tokenizer(request):
    return PIPELINES[request.param]()


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


@settings(max_examples=50, deadline=None)
@given(text=TEXT)
def test_tokens_beside_every_cut_are_those_of_the_whole_text(tokenizer, text):
    cuts, whole = cuts_of(tokenizer), ids(tokenizer, text)
    for limit in range(1, len(text)):
        head, tail = cuts.head(text, limit), cuts.tail(text, limit)
        if head is not None:
            assert text.startswith(head)
            assert len(head) <= limit
            found = ids(tokenizer, head)
            assert found == whole[: len(found)], head
        if tail is not None:
            assert text.endswith(tail)
            assert len(tail) <= limit
            found = ids(tokenizer, tail)
            assert found == whole[len(whole) - len(found) :], tail


@settings(max_examples=50, deadline=None)
@given(text=TEXT)
def test_a_shortened_text_has_the_same_tokens(tokenizer, text):
    assert ids(tokenizer, cuts_of(tokenizer).shortened(text)) == ids(tokenizer, text)


@settings(max_examples=50, deadline=None)
@given(item=TEXT | st.tuples(TEXT, TEXT), left=st.booleans(), max_length=st.integers(4, 9))
def test_a_long_text_keeps_the_tokens_that_the_whole_one_keeps(tokenizer, item, left, max_length):
    ours = TextTokenizer(tokenizer, max_length=max_length, pad_id=3, truncate_left=left, with_type_ids=True)
    (whole,) = each_text(ours.tokenize([item]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LONG_CHARACTERS", (12, 25, 10_000))
        (long,) = each_text(ours.tokenize([item]))
    assert (long.ids, long.type_ids) == (whole.ids, whole.type_ids)
    assert long.removed == whole.removed or (long.at_least and 0 < long.removed < whole.removed)


@pytest.mark.parametrize("name", PIPELINES)
def test_prose_is_cut(name):
    """What would make the tests above empty: no cut anywhere."""
    cuts = cuts_of(PIPELINES[name]())
    assert cuts.head("the dog, the bird and so on", 12) == ("the dog," if name == "sentencepiece" else "the dog, the")
    goes_on = {"bert, an added phrase", "bert, added letters", "bert, rstrip", "sentencepiece"}  # an added token does, behind a letter
    assert cuts.head("привет мир", 8) == (None if name in goes_on else "привет")


@pytest.mark.parametrize("name", WITHOUT_CUTS)
def test_what_is_not_known_to_be_exact_is_not_cut(name, monkeypatch):
    tokenizer = WITHOUT_CUTS[name]()
    assert cuts_of(tokenizer) is None
    ours = TextTokenizer(tokenizer, max_length=8, pad_id=3, truncate_left=False, with_type_ids=False)
    monkeypatch.setattr(module, "LONG_CHARACTERS", (10, 20, 40))
    assert not ours.tokenize(["the cat " * 5]).at_least.any()
    with pytest.raises(TextError, match="text 7 has 48 characters, .* cannot be determined from 40 of them") as raised:
        ours.tokenize(["the cat " * 6], indices=[7])
    assert raised.value.index == 7


LONG = {
    "words": ("a " * 5_000_000, True),
    "dots": ("." * 5_000_000, True),
    "han": ("中国" * 2_000_000, True),
    "cyrillic": ("привет " * 1_000_000, True),
    "lines": ("ab\n" * 2_000_000, True),
    "one word": ("a" * 5_000_000, False),
    "blanks": ("x" + " \t\r\n" * 1_000_000 + "y", False),
    "a word, blanks, a word": ("a" * 3_000_000 + " " * 3_000_000 + "b" * 3_000_000 + " cat", False),
    "pair": (("a " * 2_000_000, "b"), True),
    "pair, the other": (("b", "a " * 2_000_000), True),
}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("name", LONG)
def test_a_huge_text_gets_the_tokens_of_its_beginning_or_end(name, left, monkeypatch):
    text, at_least = LONG[name]
    ours = TextTokenizer(PIPELINES["bert"](), max_length=64, pad_id=3, truncate_left=left, with_type_ids=True)
    encoded = []
    tokens_of = EncodingReader.tokens
    monkeypatch.setattr(
        EncodingReader, "tokens", lambda self, found, **options: encoded.append(len(found[0].ids)) or tokens_of(self, found, **options)
    )
    (tokens,) = each_text(ours.tokenize([text]))
    assert tokens.at_least is at_least
    assert encoded[0] <= 2**16 + 10  # no more than the first part was needed
    assert (tokens.removed > 0) is at_least


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("中a" * 40, None),
        ("\u3042" * 50, "text 0 has 50 characters, .* cannot be determined from 40 of them .*docs/guides/embed.md, Long texts"),
        (("a " * 40, "b " * 40), "text 0 has 160 characters"),
        ("a " * 40 + "\ud800", r"text 0 has a lone surrogate U\+D800 at character 80"),
    ],
    ids=["split", "one unknown word", "a pair of two, one token is the longer one's", "a surrogate far behind"],
)
def test_what_cannot_be_settled_is_refused(text, said, monkeypatch):
    monkeypatch.setattr(module, "LONG_CHARACTERS", (10, 20, 40))
    ours = TextTokenizer(PIPELINES["bert"](), max_length=8, pad_id=3, truncate_left=False, with_type_ids=False)
    if said is None:
        assert ours.tokenize([text]).at_least.all()
    else:
        with pytest.raises(TextError, match=said):
            ours.tokenize([text])


def test_settled_means_that_no_longer_texts_change_what_is_kept():
    for room, first, second, complete in product(range(1, 6), range(7), range(7), product([False, True], repeat=2)):
        numbers = [None, *[0] * first, *[1] * second]
        rooms = {
            truncating._longest_first(first + more, second + others, room)
            for more in ((0,) if complete[0] else range(12))
            for others in ((0,) if complete[1] else range(12))
        }
        kept = next(iter(rooms))
        really = len(rooms) == 1 and kept[0] <= first and kept[1] <= second and first + second > room
        assert is_settled(numbers, complete, room + 1) is really, (room, first, second, complete)

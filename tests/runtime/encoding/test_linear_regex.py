"""Patterns that are let through take time that grows with the text; those of real models are let through."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from cls_runtime.encoding.linear_regex import shortest_match

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize(
    ("pattern", "shortest"),
    [
        (" {2,}", 2),
        (r"\s{2,}|[\n\r\t]", 1),
        (r"\s+", 1),
        (r"\d", 1),
        (r"[0-9][0-9][0-9]", 3),
        (r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", 1),
        (GPT2, 1),
        (CL100K, 1),
        (CL100K.replace("{1,3}", ""), 1),
        ("a{3}b?", 3),
        ("a*", 0),
        ("a|", 0),
        ("", 0),
    ],
)
def test_patterns_of_real_models(pattern, shortest):
    assert shortest_match(pattern) == shortest


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a+)+$", r"has '\(' at character 0"),
        ("(a|a)*b", r"has '\(' at character 0"),
        ("(?:a+)+b", r"has '\(' at character 0"),
        ("([a-z]+)*=", r"has '\(' at character 0"),
        ("a+b", "goes back over what it has read where 'b' is not found"),
        (r"\s+\n", "goes back over"),
        (".*=", "goes back over"),
        ("a*a*a*a*a*b", "goes back over"),
        ("a{0,99}a{0,99}a", "goes back over"),
        ("a{1,2}b", "goes back over"),
        ("a?a?a?a?a?aaaaa", "has 5 optional characters in a row"),
        ("a++", "a repeated repetition at character 1"),
        ("a+?", "a repeated repetition at character 1"),
        ("a{2}{3}", "a repeated repetition"),
        ("a{1000,}", "a repeated repetition"),
        (r"\s+(?!\S)", r"has '\(' at character 3"),
        (r"\s*[\r\n]+|x", "goes back over"),
        (r"(a)\1", r"has '\(' at character 0"),
        (r"\1", "has '.*' at character 0"),
        (r"\Ka", "has '.*' at character 0"),
        ("^a", r"has '\^' at character 0"),
        ("[[a][b]]", r"has '\[' at character 0"),
        ("[a&&b]", r"has '\[' at character 0"),
        ("[a", r"has '\[' at character 0"),
        ("a" * 1001, "has 1,001 characters, expected at most 1,000"),
    ],
)
def test_others_are_refused_with_the_reason(pattern, reason):
    with pytest.raises(ValueError, match=reason):
        shortest_match(pattern)


ATOMS = st.sampled_from(["a", "b", ".", r"\s", "[ab]", "[^a]", r"\p{L}", " "])
BRANCHES = st.lists(st.tuples(ATOMS, st.sampled_from(["", "", "?", "*", "+", "{2,}"])).map("".join), min_size=1, max_size=4).map("".join)


@pytest.mark.timing
@settings(max_examples=60)
@given(pattern=st.lists(BRANCHES, min_size=1, max_size=3).map("|".join), unit=st.sampled_from(["a", "ab", " ", "b a", "é"]))
def test_what_is_let_through_takes_no_longer_than_the_text_is_long(pattern, unit):
    try:
        shortest_match(pattern)
    except ValueError:
        return
    splitter = pre_tokenizers.Split(Regex(pattern), "isolated")
    text = unit * (20_000 // len(unit))
    start = time.process_time()
    splitter.pre_tokenize_str(text)
    assert time.process_time() - start < 2  # a pattern that goes back over 20,000 characters at each of them takes longer

from cls_runtime.bench.texts import docstring_sentences


def test_the_built_in_texts_are_sentences_and_the_same_every_time():
    texts = docstring_sentences(200)
    assert len(texts) == len(set(texts)) == 200
    assert all(8 <= len(text.split()) <= 40 for text in texts)
    assert texts == docstring_sentences(200)
    assert texts[:50] == docstring_sentences(50)


def test_there_are_enough_for_a_benchmark():
    assert len(docstring_sentences(3000)) == 3000

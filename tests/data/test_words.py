from hypothesis import given
from hypothesis import strategies as st

from xmas_job.data.examples import Turn
from xmas_job.data.words import count_words


def test_words_of_conversations_by_hand() -> None:
    conversations = [
        (Turn("user", "What is it?", 1), Turn("assistant", "A  cat\tand\na dog")),
        (Turn("user", "", 1), Turn("assistant", "Non")),
        (Turn("user", "Où\u00a0ça ?"), Turn("assistant", "Là")),
    ]
    assert count_words(conversations).tolist() == [8, 1, 4]
    assert count_words([]).tolist() == []


@given(st.lists(st.lists(st.text(alphabet=[*map(chr, range(1, 128)), "é", "\u3000"]), min_size=1), max_size=5))
def test_words_are_those_that_split_finds(texts: list[list[str]]) -> None:
    conversations = [tuple(Turn("user", text) for text in some) for some in texts]
    assert count_words(conversations).tolist() == [sum(len(text.split()) for text in some) for some in texts]

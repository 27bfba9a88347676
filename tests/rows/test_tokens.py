"""The base's tokenizer: what it must bring, and which languages its vocabulary fits."""

import pytest

from stages.lib.common.cli import UserError
from stages.lib.rows import tokens
from stages.tokenize import fits
from tools import pretrain


def test_a_missing_tokenizer_is_one_line(tmp_path):
    with pytest.raises(UserError, match="run dvc repro"):
        tokens.Tokenizer(tmp_path)


# A little of each, so that a vocabulary learned from one of them knows its words and none of another's.
LANGUAGES = {
    "English": "The film was very long, and we talked about it all the way home. The day ended well.",
    "Russian": "Фильм был очень длинный, и мы говорили о фильме всю дорогу домой. День закончился хорошо.",
    "Chinese": "电影很长，我们在回家的路上一直谈论这部电影。天气很好，我们很高兴。电影里的人也在回家的路上。",
    "Japanese": "映画はとても長かったので、帰り道でずっと映画の話をしました。天気がよくて、とても楽しい一日でした。",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_vocabulary_fits_the_language_it_was_made_for_and_no_other(language):
    class Given(pretrain.Source):
        def texts(self):
            return iter([(1, LANGUAGES[language])])

    tokenizer = pretrain.train_tokenizer([Given(None, 20)], 500)
    for other, text in LANGUAGES.items():
        count = len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert fits(len(text.encode()), count) == (other == language), (other, len(text.encode()) / count)


def test_gpt2s_own_vocabulary_fits_english_and_not_russian():
    """By what it was seen to spend: 1.6 to 1.7 bytes of Russian a token, 3.8 to 4.7 of English."""
    assert not fits(170, 100)
    assert fits(380, 100)

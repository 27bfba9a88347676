"""The script of texts, and prompts in another one."""

import pytest

from stages.lib.common import scripts


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Кот и ёж", "a cat"], "Cyrillic"),
        (["Кот", "a cat, naïve"], "Latin"),
        (["漢字かな", "cat"], None),
        (["12 — !"], None),
        ([], None),
    ],
)
def test_the_main_script_is_that_of_more_than_half_of_the_letters(texts, expected):
    assert scripts.main_script(texts) == expected


def test_prompts_in_another_script_are_named(capsys):
    scripts.name_other_prompts(["Жил-был", "Once", "12"], "Latin")
    assert capsys.readouterr().out == (
        "evaluate.prompts, 'Жил-был': in Cyrillic letters, but the texts are in Latin ones\n"
    )
    scripts.name_other_prompts(["Жил-был", "Once"], None)
    assert capsys.readouterr().out == ""

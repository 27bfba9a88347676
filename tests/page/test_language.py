"""The report's language: every message has its translation, numbers are written as its readers write them."""

import ast
import re

import pytest
import yaml
from conftest import HOME

from stages import report
from stages.lib.page.language import Words, language_of

ENGLISH = Words("en")
pytestmark = pytest.mark.usefixtures("at_home")


def messages():
    """Every message that can be asked for, from the template and from the code, as the catalogue names it."""
    template = (HOME / "stages/lib/page/templates/report.html").read_text(encoding="utf-8")
    calls = report.page_environment(ENGLISH).extract_translations(template, ("_", "gettext", "plural"))
    found = set()
    for _, function, texts in calls:
        one = (texts,) if isinstance(texts, str) else texts
        found.add(one[1] if function == "plural" else one[0])
    for module in ("stages/report.py", "stages/lib/page/advice.py", "stages/lib/page/pictures.py"):
        for node in ast.walk(ast.parse((HOME / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in ("words", "words.plural"):
                found.add(ast.literal_eval(node.args[called == "words.plural"]))
    return found


def test_the_russian_catalogue_has_every_message_and_no_other():
    catalogue = yaml.safe_load((HOME / "stages/lib/page/templates/ru.yaml").read_text(encoding="utf-8"))
    assert set(catalogue) == messages()
    for english, russian in catalogue.items():
        forms = russian if isinstance(russian, list) else [russian]
        assert len(forms) in (1, 3), english
        for form in forms:
            values = [sorted(re.findall(r"%\(\w+\)s", text)) for text in (english, form)]
            assert values[0] == values[1], english
            assert not re.search(r"(?<!%)%(?![%(])", (english + form).replace("%%", "")), english
            assert re.search("[а-яё]", form), english


@pytest.mark.parametrize(
    ("count", "english", "russian"),
    [
        (0, "0 documents", "0 документов"),
        (1, "1 document", "1 документ"),
        (2, "2 documents", "2 документа"),
        (5, "5 documents", "5 документов"),
        (11, "11 documents", "11 документов"),
        (12, "12 documents", "12 документов"),
        (21, "21 documents", "21 документ"),
        (24, "24 documents", "24 документа"),
        (111, "111 documents", "111 документов"),
        (1001, "1,001 documents", "1\u202f001 документ"),
    ],
)
def test_words_take_the_form_that_goes_with_their_number(count, english, russian):
    for language, text in (("en", english), ("ru", russian)):
        assert Words(language).plural("%(count)s document", "%(count)s documents", count) == text


@pytest.mark.parametrize(
    ("value", "digits", "english", "russian"),
    [
        (1.19371, 4, "1.1937", "1,1937"),
        (26332, 0, "26,332", "26\u202f332"),
        (1234567.891, 1, "1,234,567.9", "1\u202f234\u202f567,9"),
        (-0.1427, 3, "\N{MINUS SIGN}0.143", "\N{MINUS SIGN}0,143"),
        (-0.00001, 2, "0.00", "0,00"),
        (None, 2, "–", "–"),
    ],
)
def test_numbers_are_written_as_the_language_writes_them(value, digits, english, russian):
    assert ENGLISH.number(value, digits) == english
    assert Words("ru").number(value, digits) == russian


def test_a_share_and_a_setting_are_written_as_the_language_writes_them():
    assert [Words(language).percent(-0.107, 1, sign=True) for language in ("en", "ru")] == ["−10.7%", "−10,7\u00a0%"]
    assert [ENGLISH.number(value, 3, sign=True) for value in (0.0004, -0.0004, 0.0006, -0.0006)] == [
        *("0.000", "0.000", "+0.001", "−0.001")
    ]
    assert [Words(language).exact(5e-05) for language in ("en", "ru")] == ["0.00005", "0,00005"]
    assert [ENGLISH.exact(value) for value in (0.8, 1.0, 100, 0.95)] == ["0.8", "1", "100", "0.95"]


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [
        ({"Cyrillic": 0.9, "Latin": 0.1}, "ru"),
        ({"Latin": 0.6, "Cyrillic": 0.4}, "en"),
        ({"Han": 1.0}, None),
        ({}, None),
    ],
)
def test_the_language_of_texts_is_guessed_from_their_letters(scripts, expected):
    assert language_of(scripts) == expected

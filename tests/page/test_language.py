"""The report's language: every message has its translation, numbers are written as its readers write them."""

import ast
import re

import pytest
import yaml
from conftest import HOME

from stages import report
from stages.lib.page.language import Words

ENGLISH = Words("en")
pytestmark = pytest.mark.usefixtures("at_home")


def messages():
    """Every message that can be asked for, from the template and from the code."""
    template = (HOME / "stages/lib/page/templates/report.html").read_text(encoding="utf-8")
    extracted = report.page_environment(ENGLISH).extract_translations(template)
    found = {message if isinstance(message, str) else message[0] for _, _, message in extracted}
    for module in ("stages/report.py", "stages/lib/page/advice.py", "stages/lib/page/pictures.py"):
        for node in ast.walk(ast.parse((HOME / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "words":
                found.add(ast.literal_eval(node.args[0]))
    return found


def test_the_russian_catalogue_has_every_message_and_no_other():
    catalogue = yaml.safe_load((HOME / "stages/lib/page/templates/ru.yaml").read_text(encoding="utf-8"))
    assert set(catalogue) == messages()
    for english, russian in catalogue.items():
        values = [sorted(re.findall(r"%\(\w+\)s", text)) for text in (english, russian)]
        assert values[0] == values[1], english
        assert not re.search(r"(?<!%)%(?![%(])", english + russian), english
        assert re.search("[а-яё]", russian), english


@pytest.mark.parametrize(
    ("value", "digits", "english", "russian"),
    [
        (1.19371, 4, "1.1937", "1,1937"),
        (26332, 0, "26\u202f332", "26\u202f332"),
        (1234567.891, 1, "1\u202f234\u202f567.9", "1\u202f234\u202f567,9"),
        (-0.1427, 3, "\N{MINUS SIGN}0.143", "\N{MINUS SIGN}0,143"),
        (-0.00001, 2, "0.00", "0,00"),
        (None, 2, "–", "–"),
    ],
)
def test_numbers_are_written_as_the_language_writes_them(value, digits, english, russian):
    assert ENGLISH.number(value, digits) == english
    assert Words("ru").number(value, digits) == russian

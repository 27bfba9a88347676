"""The pages in docs/: their links, their commands, and that every message of the project can be found."""

import ast
import re

import pytest
import yaml
from conftest import HOME, PAGES, blocks_of
from messages import ERRORS, Module

TWO_LANGUAGES = [page for page in PAGES if (HOME / page).with_suffix(".ru.md").exists()]
ALL = [*PAGES, *(page.replace(".md", ".ru.md") for page in TWO_LANGUAGES)]
# Modules whose functions return what a message says.
EXPLAINING = {"stages/lib/hub/errors.py"}
RUSSIAN = yaml.safe_load((HOME / "stages/messages.ru.yaml").read_text(encoding="utf-8"))
SHORTEST = 8  # letters by which a message can be found
FORBIDDEN = (
    "perplexity a token",
    "gone on from",
    "column waits",
    "speaks its language",
    "at hand",
    "контрольных документ",
    "контрольные документ",
    "только отдаёт",
    "под рукой",
    "наты на знаки",
)


def text_of(page):
    return (HOME / page).read_text(encoding="utf-8")


def anchors(page):
    """What a link into the page may name, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL)
def test_what_a_page_links_to_is_there(page):
    for path, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text_of(page)):
        if "://" not in path:
            target = (HOME / page).parent / path if path else HOME / page
            assert target.exists(), path
            if anchor:
                assert anchor in anchors(target.resolve().relative_to(HOME)), f"{path}#{anchor}"


def test_every_page_is_linked_from_the_readme():
    for readme, pages in (("README.md", PAGES), ("README.ru.md", [page for page in ALL if page != "README.md"])):
        linked = re.findall(r"\]\((docs/[^)#]+\.md)", text_of(readme))
        for page in pages:
            translated = readme == "README.ru.md" and page in TWO_LANGUAGES
            assert translated or page in (*linked, readme), f"{readme} does not link {page}"


@pytest.mark.parametrize("page", TWO_LANGUAGES)
def test_both_languages_show_the_same_commands(page):
    assert blocks_of(page.replace(".md", ".ru.md")) == blocks_of(page)


@pytest.mark.parametrize("page", ["README.md", "README.ru.md"])
def test_a_readme_is_one_that_people_read(page):
    assert text_of(page).count("\n") <= 150


@pytest.mark.parametrize("page", ALL)
def test_nothing_is_said_as_nobody_would_say_it(page):
    assert [words for words in FORBIDDEN if words in text_of(page)] == []


@pytest.mark.parametrize("page", [page for page in ALL if page.endswith(".ru.md")])
def test_russian_numbers_have_a_comma_and_a_real_minus(page):
    prose = re.sub(r"```.*?```|`[^`]*`|\(https?:[^)]*\)", "", text_of(page), flags=re.DOTALL)
    prose = re.sub(r"Python (от )?3\.\d+( (и|до) 3\.\d+)?|GPT-3\.5", "", prose)
    assert re.findall(r"\d\.\d|(?<!\S)-\d", prose) == []


def rounded(value, given):
    """A value to as many digits as the page gives."""
    return float(f"{value:.{len(given.replace('.', '').strip('0'))}g}")


def test_every_figure_on_the_page_about_scale_is_what_its_formula_gives():
    page, speed = text_of("docs/scale.md"), text_of("docs/speed.md")
    computed = re.findall(r"`([\d.e+*/() -]+)` = ([\d.]*\d)", page)
    assert len(computed) > 15
    assert [(formula, given) for formula, given in computed if rounded(eval(formula), given) != float(given)] == []
    assert all(f"| {rate} |" in speed for rate in ("10.5", "3.7"))  # MB/s, of validation and tokenization
    costs = re.findall(r"`([^`]+)` = \d+ \| (a|\d+) \w+ \| \$(\d+) to \$(\d+) \|", page)
    assert len(costs) == 5
    for formula, cards, *range_ in costs:
        prices = (0.5, 1.5) if cards == "a" else (2 * int(cards), 4 * int(cards))
        assert [rounded(eval(formula) * price, given) for price, given in zip(prices, range_, strict=True)] == [
            float(given) for given in range_
        ]


# --- every message can be found ---


def template(node):
    """A message as the source has it, with … for each part that differs."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "…"
    if isinstance(node, ast.JoinedStr):
        return "".join(template(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    if isinstance(node, ast.Call) and node.args:  # a function that puts it into the reader's language
        return re.sub(r"\{\w+\}", "…", template(node.args[0]))
    return "…"


def telling(message, shortest=SHORTEST):
    """The words by which a message is found: of its first part that has some, which is what is wrong."""
    for part in re.split(r": |; |\. ", message.removeprefix("params.yaml: ")):
        longest = max((words.strip(" ,:;.()'\"") for words in part.split("…")), key=len)
        if len(longest) >= shortest:
            return longest
    return None


def messages():
    """Of each error that a user may meet: where it is raised, and the words by which it is found."""
    for path in (HOME / "generate.py", *(HOME / "stages").rglob("*.py"), *(HOME / "tools").rglob("*.py")):
        module = Module(path)
        told = [argument for _, call in module.calls(ERRORS) for argument in call.args[-1:]]
        if module.name in EXPLAINING:
            told += [node.value for node in ast.walk(module.tree) if isinstance(node, ast.Return) and node.value]
        for one in told:
            if words := telling(template(one)):
                yield f"{module.name}:{one.lineno}", words


def plain(text):
    return " ".join(text.replace("\\|", "|").replace("`", "").split())


def in_russian(words):
    """The words by which a message is found where it is said in Russian; none for one that never is."""
    for english, form in RUSSIAN.items():
        if words in (telling(english.replace("{}", "…")) or ""):
            yield telling(re.sub(r"\{[^{}]*\}", "…", form), 6)


@pytest.mark.parametrize("language", ["en", "ru"])
def test_every_message_is_found_in_troubleshooting(language):
    text = plain(text_of("docs/troubleshooting.md" if language == "en" else "docs/troubleshooting.ru.md"))
    found = list(messages())
    assert len(found) > 100
    told = [
        (place, one)
        for place, words in found
        for one in ((language == "ru" and [*filter(None, in_russian(words))]) or [words])
    ]
    assert [(place, one) for place, one in told if plain(one) not in text] == []


def test_what_the_russian_page_quotes_is_what_is_said():
    """Of the messages of the project's own; those of `./run`, git and DVC are in English."""
    _, ours = text_of("docs/troubleshooting.ru.md").split("\n## Настройки\n")
    forms = [plain(re.sub(r"\{\d*:[^{}]*\|([^{}|]*)\}|\{\d*(?::[^{}]*)?\}", r"…\1", form)) for form in RUSSIAN.values()]
    cells = [re.split(r"(?<!\\) \| ", line)[0] for line in ours.split("\n") if line.startswith("| ")]
    quoted = [one for cell in cells for one in re.findall(r"`([^`]+)`", cell) if re.search("[а-яё]", one)]
    said = [plain(one).removeprefix("ошибка: ") for one in quoted]
    patterns = {one: ".*?".join(re.escape(piece.strip()) for piece in one.split("…")) for one in said}
    assert len(said) > 150
    assert [one for one, pattern in patterns.items() if not any(re.search(pattern, form) for form in forms)] == []


def test_every_refusal_of_the_system_is_found_there():
    from stages.lib.common import cli

    english, russian = (plain(text_of(f"docs/troubleshooting{ending}.md")) for ending in ("", ".ru"))
    assert [what for what, _ in cli._REFUSALS.values() if what not in english] == []
    assert [what for what, _ in cli._REFUSALS.values() if RUSSIAN[what] not in russian] == []

"""Books and workbooks, each file as the program makes it whose format it is."""

import pytest
from archives import archive

pytest_plugins = ["collecting"]


# EPUB


def xhtml(body):
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" '
        'xmlns:epub="http://www.idpf.org/2007/ops"><head><title>Книга</title></head>' + body + "</html>"
    )


PAGES = {
    "cover": '<body epub:type="cover"><p>Обложка</p></body>',
    "title": '<body epub:type="titlepage"><h1>Чайник и кот</h1><p>Анна Белова</p><p>Издательство, 2020</p></body>',
    "nav": '<body><nav epub:type="toc"><h1>Содержание</h1><ol><li><a href="c1.xhtml">1</a></li></ol></nav></body>',
    "c1": (
        '<body><section epub:type="chapter"><h2>Глава 1</h2><p>Пер\u00adвый <em>абзац</em>'
        '<a epub:type="noteref" href="#n1">1</a>.</p><p>Вторая<br/>строка.</p>'
        '<aside epub:type="footnote" id="n1"><p>Сноска.</p></aside></section></body>'
    ),
    "c2": (
        '<body><h2>Глава 2</h2><p>Текст<sup><a href="notes.xhtml#e1">[2]</a></sup> дальше.</p><hr/><p>Ещё.</p></body>'
    ),
    "notes": '<body><section epub:type="footnotes"><h2>Примечания</h2><p id="e1">2. Примечание.</p></section></body>',
}


def epub(path):
    items = "".join(f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml"/>' for name in PAGES)
    spine = "".join(f'<itemref idref="{name}"/>' for name in PAGES)
    archive(
        path,
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<?xml version="1.0"?><container version="1.0" '
            'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
            'full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
            "OEBPS/content.opf": '<?xml version="1.0" encoding="UTF-8"?><package xmlns="http://www.idpf.org/2007/opf" '
            'version="3.0" unique-identifier="id"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
            "<dc:title>Чайник и кот</dc:title><dc:language>ru</dc:language><dc:identifier "
            f'id="id">x</dc:identifier></metadata><manifest>{items.replace("/>", chr(32) + "/>")}</manifest>'
            f"<spine>{spine}</spine></package>",
            **{f"OEBPS/{name}.xhtml": xhtml(body) for name, body in PAGES.items()},
        },
    )


@pytest.mark.slow
def test_the_chapters_of_an_epub(collect, with_pandoc, tmp_path):
    epub(tmp_path / "book.epub")
    run = collect("book.epub")
    assert run.texts == ["Глава 1\n\nПервый абзац.\n\nВторая\nстрока.", "Глава 2\n\nТекст дальше.\n\n* * *\n\nЕщё."]
    assert run.counts() == {"EPUB": (4, 2, 2, 2)}
    assert run.left() == {"title pages, and what stands before the first heading": 2}
    assert collect("book.epub", "--by", "file").texts == ["\n\n".join(run.texts)]
    assert collect("book.epub", "--by", "paragraph").texts[1] == "Первый абзац."


# FB2

FB2 = """<?xml version="1.0" encoding="windows-1251"?>
<FictionBook xmlns="http://www.gribuser.ru/xml/fictionbook/2.0" xmlns:l="http://www.w3.org/1999/xlink">
<description><title-info><genre>prose</genre>
<author><first-name>Анна</first-name><last-name>Белова</last-name></author><book-title>Чайник и кот</book-title>
<annotation><p>Аннотация.</p></annotation><lang>ru</lang></title-info></description>
<body><title><p>Анна Белова</p><p>Чайник и кот</p></title>
<section><title><p>Часть первая</p></title>
<section><title><p>Глава 1</p></title><p>Первый <emphasis>абзац</emphasis><a l:href="#n1" type="note">[1]</a>.</p>
<empty-line/><poem><stanza><v>Стих раз,</v><v>стих два.</v></stanza></poem></section>
<section><title><p>Глава 2</p></title>
<p>— <style name="italic">Реплика</style>.</p><subtitle>* * *</subtitle><p>Дальше.</p></section>
</section></body>
<body name="notes"><title><p>Примечания</p></title>
<section id="n1"><title><p>1</p></title><p>Сноска.</p></section></body>
<binary id="cover.jpg" content-type="image/jpeg">AAAA</binary>
</FictionBook>"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["book.fb2", "book.fb2.zip"])
def test_the_chapters_of_an_fb2(collect, with_pandoc, tmp_path, name):
    content = FB2.encode("cp1251")
    if name.endswith(".zip"):
        archive(tmp_path / name, {"book.fb2": content})
    else:
        (tmp_path / name).write_bytes(content)
    run = collect(name)
    assert run.texts == [
        "Глава 1\n\nПервый абзац.\n\n* * *\n\nСтих раз,\nстих два.",
        "Глава 2\n\n— Реплика.\n\n* * *\n\nДальше.",
    ]
    assert run.left() == {"headings without text": 2}
    assert run.counts() == {"FB2": (4, 2, 2, 2)}
    assert "encoding windows-1251" in run.said


@pytest.mark.slow
def test_poems_that_have_the_title_of_the_book_in_theirs_are_no_title_pages(collect, with_pandoc, tmp_path):
    titles = ("Зима", "Тень", "Оттенки и тень", "Литература", "Весна")
    poems = "".join(f"<section><title><p>{title}</p></title><p>Стих.</p></section>" for title in titles)
    head, _, _ = FB2.partition("<body>")
    book = f"{head.replace('Чайник и кот', 'Тень')}<body>{poems}</body></FictionBook>"
    (tmp_path / "book.fb2").write_bytes(book.encode("cp1251"))
    assert [text.split("\n")[0] for text in collect("book.fb2").texts] == list(titles)


# HTML

PAGE = """<!DOCTYPE html><html lang="ru"><head><meta charset="windows-1251"><title>Статья — сайт</title>
<script>var a = "<p>";</script><style>p {}</style></head><body><header><a href="/">Сайт</a></header>
<nav><ul><li><a href="/a">Раздел</a></li></ul></nav>
<h1>Статья</h1><p>Первый&nbsp;абзац &laquo;со&raquo; <a href="http://example.org">ссылкой</a>.</p>
<figure><img src="a.jpg" alt="снимок"><figcaption>Подпись</figcaption></figure><blockquote>Цитата</blockquote>
<aside>Реклама</aside><div class="sidebar">Меню</div><footer>© 2020</footer></body></html>"""


@pytest.mark.slow
def test_a_page_of_html(collect, with_pandoc, tmp_path):
    (tmp_path / "page").write_bytes(PAGE.encode("cp1251"))
    run = collect("page")
    assert run.texts == ["Статья\n\nПервый\u00a0абзац «со» ссылкой.\n\nЦитата"]
    assert run.left() == {"title pages, and what stands before the first heading": 1}
    assert "encoding windows-1251" in run.said


@pytest.mark.slow
def test_a_page_that_stands_in_a_form(collect, with_pandoc, tmp_path):
    """As ASP.NET makes them; what people fill in is no text."""
    (tmp_path / "texts").mkdir()
    page = "<html><body><form><h1>Рассказ</h1><p>Весь текст</p><select><option>Выбор</option></select>"
    (tmp_path / "texts/page.html").write_text(f"{page}<button>Послать</button></form></body></html>", encoding="utf-8")
    empty = "<!DOCTYPE html><html><body><nav>Меню</nav></body></html>"
    (tmp_path / "texts/empty.html").write_text(empty, encoding="utf-8")
    run = collect("texts")
    assert run.texts == ["Рассказ\n\nВесь текст"]
    assert run.left() == {"pages and books without text": 1}
    run.counts()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "start"),
    [("a.html", ""), ("a", ""), ("a.html", '<meta charset="utf-8"><title>Дневник</title>\n'), ("a.htm", "Вот: ")],
)
def test_a_part_of_a_page(collect, with_pandoc, tmp_path, name, start):
    page = f"{start}<p>Привет, <b>мир</b>!</p>\n<script>var a=1;</script>\n<p>Как&nbsp;дела?</p>"
    (tmp_path / name).write_text(page, encoding="utf-8")
    (text,) = collect(name).texts
    assert text.endswith("Привет, мир!\n\nКак\u00a0дела?")


@pytest.mark.slow
def test_a_page_that_is_laid_out_by_tables(collect, with_pandoc, tmp_path):
    page = (
        "<html><body><table><tr><td><a>Главная</a><br><a>Архив</a></td><td><h1>Рассказ</h1><p>Первый абзац.</p>"
        "<p>Второй абзац.</p><table><tr><td>Чай</td><td>5</td></tr></table></td></tr></table></body></html>"
    )
    (tmp_path / "a.html").write_bytes(page.encode("cp1251"))
    run = collect("a.html")
    assert run.texts == ["Рассказ\n\nПервый абзац.\n\nВторой абзац.\n\nЧай\t5"]
    assert run.left() == {"title pages, and what stands before the first heading": 1}


# RTF


def code_page(text):
    return "".join(f"\\'{byte:02x}" if byte > 127 else chr(byte) for byte in text.encode("cp1251"))


def numbers(text, stand_in):
    return "".join(f"\\u{ord(letter)}{stand_in(letter)}" if letter > "\x7f" else letter for letter in text)


FONTS = r"{\fonttbl{\f0\fnil\fcharset204{\*\fname Arial;}Arial Cyr;}{\f1\fnil\fcharset238 Arial CE;}}"
QUESTION = r"\'3f"
HELLO = "Привет, мир"
RTF = {
    "Word": rf"{{\rtf1\ansi\ansicpg1251\uc1\deff0{FONTS}\f0 {numbers(HELLO, code_page)}.\par",
    "WordPad": rf"{{\rtf1\ansi\ansicpg1251\deff0{FONTS}\pard\f0\fs22 {code_page(HELLO)}.\par",
    "LibreOffice": rf"{{\rtf1\ansi\deff0{FONTS}\pard\plain\f0 {numbers(HELLO, lambda letter: QUESTION)}.\par",
    "TextEdit": rf"{{\rtf1\ansi\ansicpg1252{FONTS}\f0\fs24 \uc0 {numbers(HELLO, lambda letter: ' ')}.\par",
    "others": rf"{{\rtf1\ansi{FONTS}\f0 {numbers(HELLO, lambda letter: '?')}.\par",
}


@pytest.mark.slow
@pytest.mark.parametrize("program", RTF)
def test_letters_of_rtf(collect, with_pandoc, tmp_path, program):
    (tmp_path / "a.rtf").write_text(RTF[program] + r"\f1 \'bf\'f3\'b3w\par}", encoding="ascii")
    assert collect("a.rtf").texts == ["Привет, мир.\n\nżółw"]


@pytest.mark.slow
def test_letters_of_rtf_that_stand_in_it_as_they_are(collect, with_pandoc, tmp_path):
    (tmp_path / "a.rtf").write_bytes(rf"{{\rtf1\ansi\ansicpg1251 {HELLO}\par}}".encode("cp1251"))
    assert collect("a.rtf").texts == [HELLO]


@pytest.mark.slow
def test_a_font_of_rtf_ends_with_its_group(collect, with_pandoc, tmp_path):
    words = rf"\f0 {code_page('При')} \{{{{\f1 latin}}\}} {code_page('вет')}"
    fonts = r"{\fonttbl{\f0\fcharset204 A;}{\f1\fcharset0 T;}}"
    (tmp_path / "a.rtf").write_text(rf"{{\rtf1\ansi\ansicpg1252{fonts}{words}\par}}", encoding="ascii")
    assert collect("a.rtf").texts == ["При {latin} вет"]

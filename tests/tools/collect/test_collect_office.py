"""Office files, each as the program makes it whose format it is, and what is said where a package is missing."""

import sys
import zipfile

import pytest
from archives import archive
from conftest import HOME

from tools.collect import documents

pytest_plugins = ["collecting"]

# Word

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def paragraph(text, style=None, more=""):
    set_style = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{set_style}<w:r><w:t xml:space="preserve">{text}</w:t></w:r>{more}</w:p>'


def table(rows):
    cells = (
        "".join(f"<w:tc><w:tcPr><w:tcW w:w='100' w:type='dxa'/></w:tcPr>{paragraph(cell)}</w:tc>" for cell in row)
        for row in rows
    )
    return "<w:tbl><w:tblPr/><w:tblGrid/>" + "".join(f"<w:tr>{row}</w:tr>" for row in cells) + "</w:tbl>"


def docx(path, body=None):
    """As a Russian Word writes it: the style of headings is called 1, and its name is in English."""
    note = '<w:r><w:rPr><w:rStyle w:val="a4"/></w:rPr><w:footnoteReference w:id="2"/></w:r>'
    body = body or (
        paragraph("Глава 1", "1")
        + paragraph("Первый абзац", more=note)
        + table([["Имя", "Цена"], ["Чай", "5"]])
        + paragraph("Глава 2", "1")
        + "<w:p><w:r><w:t>До разрыва</w:t><w:br/><w:t>и после.</w:t></w:r></w:p>"
    )
    kinds = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    archive(
        path,
        {
            "[Content_Types].xml": f'<?xml version="1.0"?><Types xmlns="{PACKAGE}/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{kinds}.document.main+xml"/>'
            f'<Override PartName="/word/styles.xml" ContentType="{kinds}.styles+xml"/>'
            f'<Override PartName="/word/footnotes.xml" ContentType="{kinds}.footnotes+xml"/></Types>',
            "_rels/.rels": f'<?xml version="1.0"?><Relationships xmlns="{PACKAGE}/relationships">'
            f'<Relationship Id="rId1" Type="{RELATIONS}/officeDocument" Target="word/document.xml"/></Relationships>',
            "word/_rels/document.xml.rels": f'<?xml version="1.0"?><Relationships xmlns="{PACKAGE}/relationships">'
            f'<Relationship Id="rId1" Type="{RELATIONS}/styles" Target="styles.xml"/>'
            f'<Relationship Id="rId2" Type="{RELATIONS}/footnotes" Target="footnotes.xml"/></Relationships>',
            "word/styles.xml": f'<?xml version="1.0"?><w:styles {W}><w:style w:type="paragraph" w:styleId="1"><w:name '
            'w:val="heading 1"/><w:pPr><w:outlineLvl w:val="0"/></w:pPr></w:style></w:styles>',
            "word/footnotes.xml": f'<?xml version="1.0"?><w:footnotes {W}><w:footnote w:id="2">{paragraph("Сноска.")}'
            "</w:footnote></w:footnotes>",
            "word/document.xml": f'<?xml version="1.0"?><w:document {W}><w:body>{body}</w:body></w:document>',
        },
    )


@pytest.mark.slow
def test_chapters_whose_headings_have_no_style(collect, with_pandoc, tmp_path):
    docx(tmp_path / "a.docx", "".join(paragraph(f"Глава {number}") + paragraph("Слово. " * 9) for number in (1, 2, 3)))
    assert len(collect("a.docx").texts) == 1
    run = collect("a.docx", "--by", "chapter")
    assert [text.split("\n")[0] for text in run.texts] == ["Глава 1", "Глава 2", "Глава 3"]
    run.counts()


@pytest.mark.slow
def test_a_word_document_with_a_table_and_a_note(collect, with_pandoc, tmp_path):
    docx(tmp_path / "a.docx")
    run = collect("a.docx")
    assert run.texts == ["Глава 1\n\nПервый абзац\n\nИмя\tЦена\nЧай\t5", "Глава 2\n\nДо разрыва\nи после."]
    assert run.counts() == {"DOCX": (2, 2, 2, 0)}


# OpenDocument

SPACE = "urn:oasis:names:tc:opendocument:xmlns"
ODT = f"""<?xml version="1.0" encoding="UTF-8"?><office:document-content xmlns:office="{SPACE}:office:1.0"
 xmlns:text="{SPACE}:text:1.0" xmlns:style="{SPACE}:style:1.0" office:version="1.2"><office:automatic-styles>
<text:list-style style:name="L1"><text:list-level-style-bullet text:level="1" text:bullet-char="•"/></text:list-style>
</office:automatic-styles><office:body><office:text>
<text:h text:outline-level="1">Глава 1</text:h><text:p>Первый <text:span>абзац</text:span><text:note text:id="n1"
 text:note-class="footnote"><text:note-citation>1</text:note-citation><text:note-body><text:p>Сноска.</text:p>
</text:note-body></text:note>.</text:p><text:list text:style-name="L1"><text:list-item><text:p>раз</text:p>
</text:list-item><text:list-item><text:p>два</text:p></text:list-item></text:list></office:text></office:body></office:document-content>"""
STYLES = f"""<?xml version="1.0" encoding="UTF-8"?><office:document-styles xmlns:office="{SPACE}:office:1.0"
 xmlns:style="{SPACE}:style:1.0" office:version="1.2"><office:font-face-decls/><office:styles>
<style:style style:name="Standard" style:family="paragraph"/></office:styles><office:automatic-styles/>
<office:master-styles/></office:document-styles>"""


@pytest.mark.slow
def test_an_opendocument_text(collect, with_pandoc, tmp_path):
    members = {
        "mimetype": "application/vnd.oasis.opendocument.text",
        "content.xml": ODT,
        "META-INF/manifest.xml": f'<?xml version="1.0"?><manifest:manifest xmlns:manifest="{SPACE}:manifest:1.0"/>',
        "styles.xml": STYLES,
    }
    archive(tmp_path / "a.odt", members)
    assert collect("a.odt").texts == ["Глава 1\n\nПервый абзац.\n\n- раз\n- два"]


# Workbooks

SHEET = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def xlsx(path, changes=None):
    """As Excel writes it: texts stand once, in a part of their own, and the cells have their numbers."""
    texts = ["id", "Отзыв", "Дата", "Хороший чайник; греет\nбыстро", "Так себе"]
    shared = "".join(f'<si><t xml:space="preserve">{text}</t></si>' for text in texts)
    rows = (
        '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c><c r="C1" t="s"><v>2</v></c></row>'
        '<row r="2"><c r="A2"><v>1</v></c><c r="B2" t="s"><v>3</v></c><c r="C2"><v>45363</v></c></row>'
        '<row r="3"><c r="A3"><v>2</v></c><c r="B3" t="s"><v>4</v></c></row><row r="5"><c r="A5"><v>3</v></c></row>'
    )
    kinds = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    members = {
        "[Content_Types].xml": f'<?xml version="1.0"?><Types xmlns="{PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kinds}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kinds}.worksheet+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet2.xml" ContentType="{kinds}.worksheet+xml"/>'
        f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kinds}.sharedStrings+xml"/></Types>',
        "_rels/.rels": f'<?xml version="1.0"?><Relationships xmlns="{PACKAGE}/relationships">'
        f'<Relationship Id="rId1" Type="{RELATIONS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/_rels/workbook.xml.rels": f'<?xml version="1.0"?><Relationships xmlns="{PACKAGE}/relationships">'
        f'<Relationship Id="rId1" Type="{RELATIONS}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="rId2" Type="{RELATIONS}/worksheet" Target="worksheets/sheet2.xml"/>'
        f'<Relationship Id="rId3" Type="{RELATIONS}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
        "xl/workbook.xml": f'<?xml version="1.0"?><workbook {SHEET} xmlns:r="{RELATIONS}"><sheets>'
        '<sheet name="Лист1" sheetId="1" r:id="rId1"/><sheet name="Лист2" sheetId="2" r:id="rId2"/></sheets>'
        "</workbook>",
        "xl/sharedStrings.xml": f'<?xml version="1.0"?><sst {SHEET} count="5" uniqueCount="5">{shared}</sst>',
        "xl/worksheets/sheet1.xml": f"<worksheet {SHEET}><sheetData>{rows}</sheetData></worksheet>",
        "xl/worksheets/sheet2.xml": f"<worksheet {SHEET}><sheetData/></worksheet>",
    }
    archive(path, members | {name: change(members[name]) for name, change in (changes or {}).items()})


@pytest.mark.slow
def test_a_workbook(collect, tmp_path):
    pytest.importorskip("openpyxl", reason="pip install -r tests/requirements.txt")
    xlsx(tmp_path / "a.xlsx")
    run = collect("a.xlsx")
    assert run.texts == ["Хороший чайник; греет\nбыстро", "Так себе"]
    assert run.counts() == {"workbooks": (3, 2, 2, 1)}


@pytest.mark.slow
def test_a_sheet_of_numbers_beside_one_of_texts(collect, refused, tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="pip install -r tests/requirements.txt")
    book = openpyxl.Workbook()
    book.active.append(["text", "n"])
    book.active.append(["Первый", 1])
    book.create_sheet("stats").append(["year", "count"])
    for year in range(2000, 2003):
        book["stats"].append([year, 1])
    book.save(tmp_path / "a.xlsx")
    for options in (), ("--column", "text"):
        run = collect("a.xlsx", *options)
        assert run.texts == ["Первый"]
        assert run.counts() == {"workbooks": (4, 1, 1, 3)}
        assert run.left() == {"rows of sheets without a text": 3}
        assert "  sheet stats has no column " in run.said
    del book["Sheet"]
    book.save(tmp_path / "a.xlsx")
    assert refused("a.xlsx") == "a.xlsx, sheet stats has no column of text (its columns: year, count)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ([["Отчёт за 2024 год"], ["№", "Текст", "Автор"], [1, "Первый_x000D_\nтекст", "А"], [2, "Второй", "Б"]], 1),
        ([["№", "Текст"], [1, "Первый\nтекст"], [2, "Второй", "а это заметка"]], 0),
        ([["Первый\nтекст, и не имя"], ["Второй"]], 0),
    ],
)
def test_a_table_with_a_title_above_or_notes_at_its_side(collect, tmp_path, rows, left):
    openpyxl = pytest.importorskip("openpyxl", reason="pip install -r tests/requirements.txt")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    run = collect("a.xlsx")
    assert [text.removesuffix(", и не имя") for text in run.texts] == ["Первый\nтекст", "Второй"]
    assert run.left() == ({"rows above the table": left} if left else {})


@pytest.mark.slow
def test_workbooks_that_are_odd(collect, refused, tmp_path):
    pytest.importorskip("openpyxl", reason="pip install -r tests/requirements.txt")
    sheet = "xl/worksheets/sheet1.xml"
    far = '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
    xlsx(tmp_path / "far.xlsx", {sheet: lambda content: content.replace("</sheetData>", far)})
    assert collect("far.xlsx").left() == {"records without a text in column Отзыв": 1, "rows beside the table": 1}
    xlsx(tmp_path / "cut.xlsx", {sheet: lambda content: content[:200]})
    assert refused("cut.xlsx").startswith("cut.xlsx is a damaged workbook: ")


@pytest.mark.slow
def test_a_damaged_book_is_one_line(refused, with_pandoc, tmp_path):
    docx(tmp_path / "a.docx")
    with zipfile.ZipFile(tmp_path / "a.docx") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    archive(tmp_path / "b.docx", members | {"word/document.xml": members["word/document.xml"][:-60]})
    assert "b.docx is a Word document that pandoc cannot read" in refused("b.docx")


# Without the packages


def test_the_tests_use_the_packages_that_users_are_told_to_install():
    pins = (HOME / documents.REQUIREMENTS).read_text(encoding="utf-8").splitlines()[1:]
    assert set(pins) <= set((HOME / "tests/requirements.txt").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("name", ["a.docx", "a.xlsx", "a.rtf"])
def test_a_missing_package_is_one_line_that_says_how_to_get_it(refused, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "pypandoc", None)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    make = {"a.docx": docx, "a.xlsx": xlsx, "a.rtf": lambda path: path.write_text(r"{\rtf1 a}")}
    make[name](tmp_path / name)
    error = refused(name)
    assert error.startswith(f"{name} is a")
    assert error.endswith(", which takes one more package: python -m pip install -r tools/collect_requirements.txt")

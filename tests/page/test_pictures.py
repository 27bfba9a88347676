"""The report's pictures: every point where its figures say, the same bytes every time."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from stages.lib.page import pictures
from stages.lib.page.language import Words

ENGLISH = Words("en")
pytestmark = pytest.mark.usefixtures("at_home")


STEPS = [{"step": str(step), "loss": str(5 - step / 100)} for step in range(1, 30)]


POINTS = [
    {"step": str(step), "loss": str(5 - step / 200), "bits_per_byte": str(1.3 - step / 300)} for step in (0, 15, 29)
]


DOCUMENTS = [{"base": str(1 + n / 50), "tuned": str(1.02 + n / 60)} for n in range(20)]


LENGTHS = [{"from": "100", "to": "200", "documents": "3"}, {"from": "200", "to": "5000", "documents": "8"}]


def drawn(words):
    return {
        "loss": pictures.loss(STEPS, POINTS, 15, words),
        "documents": pictures.documents(DOCUMENTS, words),
        "lengths": pictures.lengths(LENGTHS, words),
        "curves": pictures.curves(STEPS, POINTS, 15, words),
    }


@pytest.mark.parametrize("language", ["en", "ru"])
def test_pictures_are_svg_with_ids_of_their_own_and_the_same_bytes_every_time(language):
    words = Words(language)
    made = drawn(words)
    assert made == drawn(words)
    ids = []
    for svg in made.values():
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        own = [element.get("id") for element in root.iter() if element.get("id")]
        ids += own
        for used in re.findall(r'(?:href="|url\()#([^")]+)', svg):
            assert used in own
    assert len(ids) == len(set(ids))


def test_pictures_of_the_page_take_its_colours_and_the_file_has_its_own():
    made = drawn(ENGLISH)
    assert "currentColor" not in made["curves"]
    assert "fill: #ffffff" in made["curves"]
    for name in ("loss", "documents", "lengths"):
        assert "currentColor" in made[name]
        assert "#000000" not in made[name]
        assert pictures._INK not in made[name]


def labels(svg):
    """The words and numbers that a picture shows: letters are drawn, and beside each text stands what it says."""
    return re.findall("<!-- (.*?) -->", svg)


def test_numbers_along_the_axes_are_written_as_the_language_writes_them():
    for name in ("loss", "documents", "curves"):
        english, russian = (labels(drawn(Words(language))[name]) for language in ("en", "ru"))
        points = [text for text in english if re.fullmatch(r"\d+\.\d+", text)]
        assert len(points) > 2
        assert [text for text in russian if re.fullmatch(r"\d+,\d+", text)] == [
            text.replace(".", ",") for text in points
        ]


def test_the_weights_that_were_kept_are_marked_where_they_have_a_point():
    for draw in (pictures.loss, pictures.curves):
        assert "kept: step 15" in labels(draw(STEPS, POINTS, 15, ENGLISH))
        assert "kept: step 16" not in labels(draw(STEPS, POINTS, 16, ENGLISH))


def test_lengths_that_differ_widely_stand_on_a_logarithmic_axis():
    close = [{"from": "100", "to": "200", "documents": "3"}, {"from": "200", "to": "500", "documents": "8"}]
    assert any("10^" in text for text in labels(pictures.lengths(LENGTHS, ENGLISH)))
    assert not any("10^" in text for text in labels(pictures.lengths(close, ENGLISH)))


def test_a_point_stands_where_its_figures_say():
    """The scatter's points, read back from the SVG, lie on a straight line through their figures."""
    root = ElementTree.fromstring(drawn(ENGLISH)["documents"])
    uses = [
        (float(use.get("x")), float(use.get("y")))
        for group in root.iter("{http://www.w3.org/2000/svg}g")
        if group.get("id", "").startswith("documents-line2d")
        for use in group.iter("{http://www.w3.org/2000/svg}use")
    ]
    better = [row for row in DOCUMENTS if float(row["tuned"]) < float(row["base"])]
    worse = [row for row in DOCUMENTS if float(row["tuned"]) >= float(row["base"])]
    points = uses[-len(DOCUMENTS) - 2 :]  # after them come the legend's two
    for (x, y), row in zip(points, better + worse, strict=False):
        across = (x - points[0][0]) / (points[1][0] - points[0][0])
        up = (y - points[0][1]) / (points[1][1] - points[0][1])
        steps = [
            (float(row[name]) - float(better[0][name])) / (float(better[1][name]) - float(better[0][name]))
            for name in ("base", "tuned")
        ]
        assert [across, up] == pytest.approx(steps, abs=1e-3)
    # A bit per byte is as long across as it is up, so that the diagonal is one.
    units = [
        abs(points[1][side] - points[0][side]) / abs(float(better[1][name]) - float(better[0][name]))
        for side, name in enumerate(("base", "tuned"))
    ]
    assert units[0] == pytest.approx(units[1], rel=1e-3)


def test_a_long_run_is_thinned_so_that_the_page_stays_small():
    many = [{"step": str(step), "loss": "4.0"} for step in range(1, 50_001)]
    assert len(pictures.loss(many, POINTS, 15, ENGLISH)) < 150_000
    rows = [{"base": str(1 + n % 97 / 50), "tuned": str(1 + n % 89 / 50)} for n in range(50_000)]
    assert len(pictures.documents(rows, ENGLISH)) < 500_000

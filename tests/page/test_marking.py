"""Texts with what stands in the corpus marked."""

from stages.lib.page.marking import pieces


def test_a_text_is_cut_where_copies_begin_and_end():
    found = list(pieces("abcdefgh", [[0, 2], [5, 8]]))
    assert found == [("", False), ("ab", True), ("cde", False), ("fgh", True), ("", False)]
    assert list(pieces("abc", [])) == [("abc", False)]

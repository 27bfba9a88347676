"""Files of ours that hold what others wrote: it comes back as it was, whatever characters it has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.common import files

# All that some reader of lines or tables takes for the end of one.
LINE_ENDS = "\n\r\t\v\f\x1c\x1d\x1e\x85\u2028\u2029"
TEXTS = st.text(st.sampled_from(LINE_ENDS + '\\"ntё') | st.characters(codec="utf-8"), max_size=9)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "file"


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_the_cells_of_a_table_come_back(path, rows):
    files.write_tsv(path, ["one", "two"], rows)
    assert files.read_tsv(path) == [{"one": one, "two": two} for one, two in rows]
    assert path.read_bytes().count(b"\n") == len(rows) + 1
    assert path.read_bytes().count(b"\t") == len(rows) + 1


@given(values=st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=5))
def test_the_lines_of_json_come_back(path, values):
    files.write_text(path, "".join(map(files.to_json_line, values)))
    assert files.read_json_lines(path) == values

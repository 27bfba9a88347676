"""The documents of a whole corpus: copies are told by their keys, and each takes few bytes of memory."""

import random
import tracemalloc
from array import array

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.corpus.collected import Collected
from stages.lib.corpus.documents import KEY, Documents


def block(keys, lines, texts=None):
    """Documents with these keys."""
    texts = [str(line).encode() for line in lines] if texts is None else [text.encode() for text in texts]
    return Documents(
        texts=bytearray(b"".join(texts)),
        sizes=array("q", map(len, texts)),
        lines=lines,
        marked=bytearray(len(lines)),
        keys=bytearray(b"".join(keys)),
        signatures=np.array(lines, np.uint32).reshape(-1, 1),
        parts=pa.array([[line] for line in lines], pa.list_(pa.uint64())),
    )


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=8), max_size=6))
def test_copies_are_those_of_a_plain_walk_whatever_the_blocks(tmp_path_factory, made):
    """With copies within a block, across blocks, and keys one of whose halves are equal."""
    path = tmp_path_factory.mktemp("collected") / "documents.arrow"
    firsts, copies, line = {}, [], 0
    with Collected(path, 1) as collected:
        for keys in made:
            keys = [first.to_bytes(8, "little") + second.to_bytes(8, "little") for first, second in keys]
            lines = [line := line + 2 for _ in keys]
            collected.add(block(keys, lines))
            for key, number in zip(keys, lines, strict=True):
                if firsts.setdefault(key, number) != number:
                    copies.append((number, firsts[key]))
        assert list(collected.leave_out_copies()) == copies
        assert collected.lines.tolist() == sorted(firsts.values())
        assert collected.take_signatures()[:, 0].tolist() == sorted(firsts.values())
        texts = collected.texts()
        for places, batch in collected.chunks():
            numbers = collected.lines[places].tolist()
            assert batch["text"].to_pylist() == [texts(place) for place in range(places.start, places.stop)]
            assert batch["text"].to_pylist() == list(map(str, numbers))
            assert batch["parts"].to_pylist() == [[number] for number in numbers]
    assert not path.exists()


@pytest.mark.parametrize("copies", [False, True])
def test_a_document_costs_few_bytes_of_memory(tmp_path, copies):
    count, size = 200_000, 4000
    drawn = random.Random(0)
    blocks = (
        block([bytes(KEY) if copies else drawn.randbytes(KEY) for _ in range(size)], list(range(start, start + size)))
        for start in range(0, count, size)
    )
    tracemalloc.start()
    with Collected(tmp_path / "documents.arrow", 1) as collected:
        for found in blocks:
            collected.add(found)
        before, _ = tracemalloc.get_traced_memory()
        found = sum(1 for _ in collected.leave_out_copies())
        assert found == (len(collected._lines) - 1 if copies else 0)
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert before < 40 * count
    assert peak < 100 * count

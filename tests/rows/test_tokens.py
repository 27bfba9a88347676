"""Tokens: packing loses none, keeps documents in order, and text never turns into a special token."""

import json
import re
import shutil
from collections import Counter
from itertools import product

import layouts
import numpy as np
import pyarrow as pa
import pytest
import regex
from conftest import many_texts
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from stages.lib.bases import conversion
from stages.lib.common.cli import UserError
from stages.lib.corpus import splits
from stages.lib.model import scoring
from stages.lib.rows import batches, encoder, packing, remembered, tokens, word_count
from stages.lib.rows.encoder import Encoder
from stages.tokenize import fits
from tools import pretrain

E = 0  # the boundary's id in the made-up documents

documents = st.lists(
    st.lists(st.integers(1, 50), min_size=1, max_size=80).map(lambda ids: np.array([E, *ids, E], dtype=np.int32)),
    max_size=30,
).map(lambda lists: [packing.Document(line, ids, 3 * len(ids)) for line, ids in enumerate(lists, 1)])
lengths = st.integers(8, 40)


def predicted(rows):
    """Every (document, context token, predicted token) of the rows: all but the first token of each segment."""
    return Counter(
        (segment.line, int(before), int(token))
        for row in rows
        for segment in row
        for before, token in zip(segment.ids[:-1], segment.ids[1:], strict=True)
    )


@given(documents, lengths)
def test_every_token_is_predicted_exactly_once(given_documents, max_length):
    rows = list(packing.pack(given_documents, max_length))
    expected = Counter(
        (document.line, int(before), int(token))
        for document in given_documents
        for before, token in zip(document.ids[:-1], document.ids[1:], strict=True)
    )
    assert predicted(rows) == expected
    assert all(sum(len(segment.ids) for segment in row) <= max_length for row in rows)


@given(documents, lengths, st.sampled_from(["split", "truncate"]))
def test_documents_come_back_from_rows_whole_or_as_they_were_cut(given_documents, max_length, overlong):
    kept = [packing.shorten(document, max_length, overlong) for document in given_documents]
    back = list(packing.documents_of(packing.pack(kept, max_length), E))
    assert len(back) == len(kept)
    back.sort(key=lambda document: document.line)
    for document, original in zip(back, kept, strict=True):
        assert document.ids.tolist() == original.ids.tolist()
        assert (document.line, document.size, document.whole) == (original.line, original.size, original.whole)
        assert document.whole == (document.ids[-1] == E)


@given(documents, lengths, st.sampled_from(["split", "truncate"]))
def test_documents_come_back_in_the_row_in_which_they_end(given_documents, max_length, overlong):
    """So that no more of them are in memory than go on in a later row."""
    rows = list(packing.pack((packing.shorten(one, max_length, overlong) for one in given_documents), max_length))
    read = []

    def reading():
        for row in rows:
            read.append(row)
            yield row

    last_rows = {segment.line: number for number, row in enumerate(rows, 1) for segment in row}
    for document in packing.documents_of(reading(), E):
        assert len(read) == last_rows[document.line]


@given(documents, lengths)
def test_no_two_rows_could_have_been_one(given_documents, max_length):
    fills = [sum(len(segment.ids) for segment in row) for row in packing.pack(given_documents, max_length)]
    smallest = sorted(fills)[:2]
    assert len(smallest) < 2 or sum(smallest) > max_length


@given(documents, lengths)
def test_windows_change_where_documents_stand_but_lose_none(given_documents, max_length):
    whole = predicted(packing.pack(given_documents, max_length))
    window, packing.WINDOW = packing.WINDOW, 100
    try:
        rows = list(packing.pack(given_documents, max_length))
    finally:
        packing.WINDOW = window
    assert predicted(rows) == whole
    assert len(list(packing.documents_of(rows, E))) == len(given_documents)


@given(documents, lengths)
def test_labels_leave_out_what_is_context_only(given_documents, max_length):
    rows = list(packing.pack(given_documents, max_length))
    if not rows:
        return
    batch = batches.collate(
        [
            {"input_ids": np.concatenate([s.ids for s in row]), "lengths": np.array([len(s.ids) for s in row])}
            for row in rows
        ]
    )
    labels, ids, positions = (batch[name].numpy() for name in ("labels", "input_ids", "position_ids"))
    # A position predicts its token when, and only when, it is not the first of its segment.
    assert ((labels != scoring.IGNORE) == (positions > 0)).all()
    assert (labels[labels != scoring.IGNORE] == ids[labels != scoring.IGNORE]).all()
    assert (labels != scoring.IGNORE).sum() == predicted(rows).total()
    for index, row in enumerate(rows):
        expected = [place for segment in row for place in range(len(segment.ids))]
        assert positions[index].tolist() == expected + [0] * (positions.shape[1] - len(expected))


def test_rows_on_disk_open_with_datasets_and_with_pyarrow(tmp_path):
    given_documents = [
        packing.Document(n, np.array([E, *[n] * (n % 20 + 1), E], dtype=np.int32), n) for n in range(1, 3000)
    ]
    rows = list(packing.pack(given_documents, 24))
    path = tmp_path / "train.arrow"
    count, segments, total = tokens.write_rows(path, rows)
    assert (count, segments) == (len(rows), sum(map(len, rows)))
    assert total == sum(len(segment.ids) for row in rows for segment in row)
    flat = [np.concatenate([segment.ids for segment in row]).tolist() for row in rows]
    assert Dataset.from_file(str(path))["input_ids"][:] == flat
    with pa.memory_map(str(path)) as source:
        assert pa.ipc.open_stream(source).read_all()["input_ids"].to_pylist() == flat
    for read, row in zip(tokens.read_rows(path), rows, strict=True):
        for ours, theirs in zip(read, row, strict=True):
            assert ours.ids.tolist() == theirs.ids.tolist()
            assert (ours.line, ours.size, ours.last) == (theirs.line, theirs.size, theirs.last)


def rows_by_best_fit(sizes, max_length):
    """The usual way to pack: the longest first, each into the row with the least room for it."""
    rooms = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else max_length) - size)
    return len(rooms)


@pytest.mark.parametrize(
    ("typical", "spread", "least"), [(160, 50, 0.97), (45, 15, 0.99), (128, 16, 0.98), (256, 90, 0.9)]
)
def test_rows_are_filled_better_than_by_best_fit(typical, spread, least):
    """For documents of all kinds of lengths, some of which suit a row badly."""
    sizes = np.random.default_rng(0).normal(typical, spread, 1500).clip(8, 512).astype(int).tolist()
    given_documents = [packing.Document(line, np.zeros(size, np.int32), 1) for line, size in enumerate(sizes, 1)]
    rows = list(packing.pack(given_documents, 512))
    assert sorted(segment.line for row in rows for segment in row) == list(range(1, 1501))
    assert len(rows) <= rows_by_best_fit(sizes, 512)
    assert sum(sizes) / (512 * len(rows)) >= least


TRICKY = [
    "<|endoftext|>",
    "до <|endoftext|> и после",
    "<|endoftext|><|endoftext|>",
    "<|endoftext|",
    " <|ENDOFTEXT|> ",
    "Ёлка — ёлкой; don't  stop\n\n\t…",
    "🐈‍⬛ and e\u0301",
]


def test_text_never_turns_into_a_special_token(tiny_base):
    tokenizer = tokens.Tokenizer(tiny_base)
    boundary = tokenizer.closing
    for text, ids in zip(TRICKY, Encoder(tiny_base).encode(TRICKY), strict=True):
        assert ids[0] == ids[-1] == boundary
        assert boundary not in ids[1:-1]
        assert tokenizer.decode(ids[1:-1].tolist()) == text


def own_ids(folder, texts):
    """What transformers' tokenizer of the same base gives."""
    reference = AutoTokenizer.from_pretrained(folder)
    return reference(texts, split_special_tokens=True, add_special_tokens=False)["input_ids"]


def ids_of(encoder, texts):
    return [ids[1:-1].tolist() for ids in encoder.encode(texts)]


def test_ids_are_those_of_the_hugging_face_tokenizer(tiny_base):
    encoder = Encoder(tiny_base)
    assert encoder.by_pieces
    assert ids_of(encoder, TRICKY) == own_ids(tiny_base, TRICKY)
    assert ids_of(Encoder(tiny_base, by_pieces=False), TRICKY) == own_ids(tiny_base, TRICKY)


@given(st.lists(st.text(st.characters(codec="utf-8")) | st.text("aЯ1 \n\t'sё.—")))
def test_ids_of_any_text_are_those_of_the_hugging_face_tokenizer(tiny_base, texts):
    assert Encoder(tiny_base).check(texts)


def pieces(text):
    return [piece for chunk in encoder.CHUNKS.findall(text) for piece in encoder.PIECES.findall(chunk)]


def expected_pieces(text):
    """How the library itself cuts a text."""
    cut = ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return [text[begin:end] for _, (begin, end) in cut]


def test_texts_are_cut_as_gpt2s_pattern_cuts_them():
    """Every text of up to five characters that the pattern treats differently, and all contractions."""
    texts = ["".join(drawn) for size in range(6) for drawn in product("a1!' \n\u00a0", repeat=size)]
    texts += ["".join(drawn) for size in range(1, 6) for drawn in product("'srevl ", repeat=size)]
    for text in texts:
        assert pieces(text) == expected_pieces(text)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cn"])) | st.text("aЯ1 \n\t'stmdrevl.—\x1c\u2028"))
def test_any_texts_are_cut_as_gpt2s_pattern_cuts_them(text):
    assert pieces(text) == expected_pieces(text)


def test_every_character_is_cut_as_the_tokenizer_cuts_it(tiny_base):
    """All that Unicode knows between letters, digits, marks and spaces: what the pieces rest on."""
    everything = regex.findall(r"[^\p{Cn}\p{Cs}\p{Co}]", "".join(map(chr, range(0x110000))))
    assert len(everything) > 150_000
    texts = ["".join(f"a{one}1!{one} " for one in everything[at : at + 500]) for at in range(0, len(everything), 500)]
    assert Encoder(tiny_base).check(texts)


def test_many_different_pieces_are_told_apart(tiny_base):
    drawn = np.random.default_rng(0)
    words = ["".join(drawn.choice(list("абвгдежз"), 6)) for _ in range(30_000)]
    assert Encoder(tiny_base).check([" ".join(words[at : at + 100]) for at in range(0, len(words), 100)])


def test_words_that_share_a_hash_are_told_apart(tiny_base):
    """These two had the same hash of 64 bits, by which pieces were once remembered."""
    texts = ["вджаааавааааабавеваа", "аааежгаавагабааааааа"]
    assert ids_of(Encoder(tiny_base), texts) == own_ids(tiny_base, texts)


def test_a_chunk_with_a_character_that_python_does_not_know_is_left_to_the_tokenizer(tiny_base, monkeypatch):
    encoder, whole = Encoder(tiny_base), []
    encode = encoder._ids_of_whole
    monkeypatch.setattr(encoder, "_ids_of_whole", lambda texts: whole.extend(texts) or encode(texts))
    texts = ["один", "два \u0378 три", "\u0378a", "четыре"]
    assert ids_of(encoder, texts) == own_ids(tiny_base, texts)
    assert whole == [" \u0378", "\u0378a"]


def test_more_pieces_than_are_remembered_change_nothing(tiny_base, monkeypatch):
    monkeypatch.setattr(remembered, "MOST", 10)
    monkeypatch.setattr(remembered, "LONGEST", 20)
    texts = [f"слово{number} " * 3 + "x" * number for number in range(100)]
    encoder = Encoder(tiny_base)
    assert encoder.check(texts)
    for memory in (encoder._chunks, encoder._pieces):
        assert 0 < len(memory) <= 10
        assert max(map(len, memory)) <= 20


@pytest.mark.parametrize(
    "change",
    [
        lambda described: described.update(normalizer={"type": "NFC"}),
        lambda described: described["pre_tokenizer"].update(add_prefix_space=True),
        lambda described: described["pre_tokenizer"].update(use_regex=False),
        lambda described: described.update(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, described["pre_tokenizer"]],
            }
        ),
        lambda described: described["added_tokens"].append(
            {**described["added_tokens"][0], "id": 300, "content": "Утром", "special": False}
        ),
    ],
)
def test_a_tokenizer_of_another_kind_does_the_work_itself(tiny_base, tmp_path, change):
    described = json.loads((tiny_base / "tokenizer.json").read_text(encoding="utf-8"))
    change(described)
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    shutil.copy(tiny_base / "tokenizer_config.json", tmp_path)
    encoder = Encoder(tmp_path)
    assert not encoder.by_pieces
    texts = [*TRICKY, "Утром 1234 e\u0301"]
    reference = tokens.Tokenizer(tmp_path)
    assert ids_of(encoder, texts) == [reference.encode(text) for text in texts]


@pytest.mark.parametrize("absent", [("model", "type"), ("normalizer",), ("added_tokens",), ("post_processor",)])
def test_a_file_that_leaves_unsaid_what_the_library_knows_is_read(tiny_base, tmp_path, absent):
    """As the files of 2020 do."""
    described = json.loads((tiny_base / "tokenizer.json").read_text(encoding="utf-8"))
    inner = described
    for key in absent[:-1]:
        inner = inner[key]
    del inner[absent[-1]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    shutil.copy(tiny_base / "tokenizer_config.json", tmp_path)
    encoder = Encoder(tmp_path)
    assert encoder.by_pieces
    assert ids_of(encoder, ["Утром, don't 12"]) == own_ids(tiny_base, ["Утром, don't 12"])


def test_a_tokenizer_that_cuts_nothing_does_the_work_itself(tiny_base, tmp_path):
    described = json.loads((tiny_base / "tokenizer.json").read_text(encoding="utf-8"))
    del described["pre_tokenizer"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    shutil.copy(tiny_base / "tokenizer_config.json", tmp_path)
    assert not Encoder(tmp_path).by_pieces


def test_pieces_that_give_other_ids_are_given_up(tiny_base, monkeypatch):
    monkeypatch.setattr(encoder, "PIECES", regex.compile(".", regex.DOTALL))
    fast = Encoder(tiny_base)
    assert not fast.check(TRICKY)
    assert ids_of(fast, TRICKY) == own_ids(tiny_base, TRICKY)


def test_the_number_of_processors_changes_nothing(tiny_base, tmp_path, monkeypatch):
    with splits.Writer(tmp_path) as writer:
        for start in range(0, 5000, 500):
            numbers = np.arange(start, start + 500)
            texts = [f"{TRICKY[number % len(TRICKY)]} {number}" * (number % 5 + 1) for number in numbers]
            writer.add(pa.array(texts), numbers, np.zeros(500, int))

    def encoded(processors, size=encoder._SMALL):
        monkeypatch.setattr(encoder.parallel, "processors", lambda: processors)
        with encoder.encoding(Encoder(tiny_base), size) as encode:
            return [
                (one.lines.tolist(), one.sizes.tolist(), one.ends.tolist(), one.ids.tolist(), one.characters, one.words)
                for one in encode(splits.read_documents(tmp_path, "train"))
            ]

    alone = encoded(1)
    assert encoded(3) == encoded(3, size=0) == alone
    assert sum(len(lines) for lines, *_ in alone) == 5000
    texts = [text for batch in splits.read_documents(tmp_path, "train") for text in batch["text"].to_pylist()]
    assert sum(words for *_, words in alone) == sum(map(word_count.count_words, texts))


@given(documents, lengths)
def test_overlong_documents_are_cut_or_left_out_as_asked(given_documents, max_length):
    for document in given_documents:
        whole, cut, left = (
            packing.shorten(document, max_length, overlong) for overlong in ("split", "truncate", "drop")
        )
        fits = len(document.ids) <= max_length
        assert whole is document
        assert cut.ids.tolist() == document.ids[:max_length].tolist()
        assert (whole.whole, cut.whole) == (True, fits)
        assert left is (document if fits else None)


def test_a_missing_tokenizer_is_one_line(tmp_path):
    with pytest.raises(UserError, match="run dvc repro"):
        tokens.Tokenizer(tmp_path)


# A little of each, so that a vocabulary learned from one of them knows its words and none of another's.
LANGUAGES = {
    "English": "The film was very long, and we talked about it all the way home. The day ended well.",
    "Russian": "Фильм был очень длинный, и мы говорили о фильме всю дорогу домой. День закончился хорошо.",
    "Chinese": "电影很长，我们在回家的路上一直谈论这部电影。天气很好，我们很高兴。电影里的人也在回家的路上。",
    "Japanese": "映画はとても長かったので、帰り道でずっと映画の話をしました。天気がよくて、とても楽しい一日でした。",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_vocabulary_fits_the_language_it_was_made_for_and_no_other(language):
    class Given(pretrain.Source):
        def texts(self):
            return iter([(1, LANGUAGES[language])])

    tokenizer = pretrain.train_tokenizer([Given(None, 20)], 500)
    for other, text in LANGUAGES.items():
        count = len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert fits(len(text.encode()), count) == (other == language), (other, len(text.encode()) / count)


def test_gpt2s_own_vocabulary_fits_english_and_not_russian():
    """By what it was seen to spend: 1.6 to 1.7 bytes of Russian a token, 3.8 to 4.7 of English."""
    assert not fits(170, 100)
    assert fits(380, 100)


MARKED = "@@ПЕРВЫЙ@@ Привет, <|endoftext|> и @@ВТОРОЙ@@ Да. <pad>"


@pytest.fixture(params=["text", "keep"])
def dialogue_base(request, tmp_path):
    """A base with turn marks, as the stage stores it, under either setting of `base.special_tokens`."""
    folder = layouts.Folder(tmp_path / "source", rows=302, special=("<pad>", "<s>", "</s>", layouts.END))
    layouts.rudialogpt(folder)
    (tmp_path / "base").mkdir()
    conversion.normalise(folder.path, "dialogue", tmp_path / "base", keep_special=request.param == "keep")
    return request.param, tmp_path / "base"


@pytest.mark.parametrize("by_pieces", [True, False])
def test_turn_marks_in_texts_are_text_or_kept_as_asked(dialogue_base, by_pieces):
    setting, folder = dialogue_base
    tokenizer = tokens.Tokenizer(folder)
    (document,) = Encoder(folder, by_pieces).encode([MARKED])
    ids = document[1:-1].tolist()
    assert ids == tokenizer.encode(MARKED)
    assert tokenizer.decode(ids) == MARKED
    marks = [300, 301] if setting == "keep" else []
    assert [id for id in ids if id in tokenizer.special.values()] == marks
    # Between the marks stand the ids that the parts have by themselves.
    parts = re.split("@@ПЕРВЫЙ@@|@@ВТОРОЙ@@", MARKED)[1:]
    if setting == "keep":
        assert ids == [300, *tokenizer.encode(parts[0]), 301, *tokenizer.encode(parts[1])]


def test_special_tokens_that_stand_in_texts_are_counted(dialogue_base):
    _, folder = dialogue_base
    texts = pa.array([MARKED, "Кот", "<s><s> @@ПЕРВЫЙ@@"])
    found = tokens.Tokenizer(folder).written_out(texts)
    assert found == {"@@ПЕРВЫЙ@@": 2, "@@ВТОРОЙ@@": 1, "<|endoftext|>": 1, "<pad>": 1, "<s>": 2}


def test_a_text_that_a_tokenizer_cannot_give_back_is_named_by_its_line(tiny_base, tmp_path):
    described = json.loads((tiny_base / "tokenizer.json").read_text(encoding="utf-8"))
    described["normalizer"] = {"type": "NFC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    shutil.copy(tiny_base / "tokenizer_config.json", tmp_path)
    encoder = Encoder(tmp_path)
    encoder.refuse_loss(["Ёж"], encoder.encode(["Ёж"]), [1])
    with pytest.raises(UserError, match="line 7 of the corpus would not come back"):
        encoder.refuse_loss(["Ёж", "e\u0301"], encoder.encode(["Ёж", "e\u0301"]), [1, 7])


def test_what_ends_a_text_and_stands_in_one_is_to_be_stripped_or_divided_at(project):
    project.write_corpus([*many_texts(), "Кот.<|endoftext|>Пёс.<|endoftext|>"])
    project.ok("python", "-m", "stages.validate")
    said = project.ok("python", "-m", "stages.tokenize")
    assert "<|endoftext|> stands in the texts, times: 2; read as plain text. Strip it where a text ends" in said
    assert "base.special_tokens" not in said
    assert project.json("logs/tokenize.json")["special_tokens_in_texts"] == {"<|endoftext|>": 2}

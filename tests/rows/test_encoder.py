"""Texts to ids: those of the base's own tokenizer, whoever makes them, and no text turns into a special token."""

import json
import re
import shutil
import unicodedata
from itertools import product
from types import SimpleNamespace

import layouts
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tiktoken
import tokenizers
from conftest import many_texts
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from stages import tokenize
from stages.lib.bases import conversion
from stages.lib.common import files, parallel
from stages.lib.common.cli import UserError
from stages.lib.rows import encoder, tokens
from stages.lib.rows.encoder import Encoder

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


@pytest.fixture(scope="module")
def fast(tiny_base):
    return Encoder(tiny_base)


@given(st.lists(st.text(st.characters(codec="utf-8")) | st.text("aЯ1 \n\t'sё.—")))
def test_ids_of_any_text_are_those_of_the_hugging_face_tokenizer(fast, texts):
    assert fast.check(texts)


def cut_by_tiktoken(texts, wholes):
    """The pieces into which tiktoken cuts texts, and what is not among `wholes` into bytes."""
    known = dict.fromkeys([bytes([byte]) for byte in range(256)] + [whole.encode() for whole in wholes])
    ranks = {piece: rank for rank, piece in enumerate(known)}
    cut = tiktoken.Encoding("cut", pat_str=encoder.PIECES, mergeable_ranks=ranks, special_tokens={})
    return [cut.decode_tokens_bytes(cut.encode_ordinary(text)) for text in texts]


def cut_by_the_library(texts, wholes):
    cut = ByteLevel(add_prefix_space=False)
    found = []
    for text in texts:
        pieces = [text[begin:end] for _, (begin, end) in cut.pre_tokenize_str(text)]
        parts = [[piece.encode()] if piece in wholes else [bytes([b]) for b in piece.encode()] for piece in pieces]
        found.append([part for one in parts for part in one])
    return found


def parts_of(text):
    return {text[begin:end] for end in range(len(text) + 1) for begin in range(end)}


def test_texts_are_cut_as_gpt2s_pattern_cuts_them():
    """Every text of up to five characters that the pattern treats differently, and all contractions."""
    texts = ["".join(drawn) for size in range(1, 6) for drawn in product("a1!' \n\u00a0", repeat=size)]
    texts += ["".join(drawn) for size in range(1, 6) for drawn in product("'srevl ", repeat=size)]
    wholes = set(texts)
    assert cut_by_tiktoken(texts, wholes) == cut_by_the_library(texts, wholes)


@given(st.text("aЯ1 \n\t'stmdrevl.—\x1c\u2028\x85\u0301", max_size=30))
def test_any_texts_are_cut_as_gpt2s_pattern_cuts_them(text):
    assert cut_by_tiktoken([text], parts_of(text)) == cut_by_the_library([text], parts_of(text))


def sure_characters():
    """All characters with which a text is left to tiktoken."""
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    everything = pa.array(map(chr, points))
    return everything.filter(pc.invert(pc.match_substring_regex(everything, encoder.UNSURE))).to_pylist()


def test_every_character_is_cut_as_the_tokenizer_cuts_it():
    """Letters, digits, white space and all others: each is one in both, by what it goes with."""
    characters = sure_characters()
    assert len(characters) > 250_000
    characters = [one for one in characters if unicodedata.category(one) != "Co"]
    wholes = {before + one for one in characters for before in ("", "a", "1", "!")}
    texts = [f"a{one}\n1{one}\n!{one}" for one in characters]
    assert cut_by_tiktoken(texts, wholes) == cut_by_the_library(texts, wholes)


@pytest.mark.parametrize("odd", ["\u0378", "\ua7d2", " " * 600_000 + "x", "\u2028\n\x85 " * 300])
def test_a_text_of_which_tiktoken_may_be_unsure_is_left_to_the_tokenizer(tiny_base, monkeypatch, odd):
    """A character that some versions of Unicode lack, and white space that is too much for tiktoken's stack."""
    base, whole = Encoder(tiny_base), []
    own = base._own_ids
    monkeypatch.setattr(base, "_own_ids", lambda texts: whole.extend(texts) or own(texts))
    texts = ["один", f"два{odd}", "четыре" + " " * 400]
    assert ids_of(base, texts) == own_ids(tiny_base, texts)
    assert whole == [texts[1]]


def learned(merges, letters="abc"):
    """A tokenizer of bytes with these merges, in their order."""
    made = ["".join(merge) for merge in merges]
    vocabulary = {token: 7 * id for id, token in enumerate([*made[::-1], *encoder.byte_letters()])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return tokenizer


@st.composite
def lists_of_merges(draw):
    """Merges of any tokens that there are so far, whether or not they ever come about."""
    known, merges = ["a", "b", "c"], []
    for _ in range(draw(st.integers(0, 8))):
        merge = draw(st.sampled_from(known)), draw(st.sampled_from(known))
        if "".join(merge) not in known:
            merges.append(merge)
            known.append("".join(merge))
    return merges


@given(lists_of_merges(), st.lists(st.text("abc", max_size=40), max_size=20))
def test_a_vocabulary_of_which_tiktoken_would_make_others_is_found_out(merges, texts):
    tokenizer = learned(merges)
    found = encoder.tokens_by_rank(tokenizer)
    if found:
        ranks = {token: rank for rank, token in enumerate(found)}
        fast = tiktoken.Encoding("learned", pat_str=encoder.PIECES, mergeable_ranks=ranks, special_tokens={})
        ids = list(found.values())
        made = [[ids[rank] for rank in fast.encode_ordinary(text)] for text in texts]
        assert made == [tokenizer.encode(text).ids for text in texts]


@pytest.mark.parametrize(
    ("merges", "usable"),
    [
        ([], True),
        ([("a", "b"), ("ab", "c")], True),
        ([("b", "c"), ("a", "b"), ("ab", "c")], False),  # abc is a and bc
        ([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")], False),  # abc twice
        ([("a", "a"), ("aa", "a"), ("aaa", "aa")], False),  # aaaaa is aa, aa and a
    ],
)
def test_merges_that_do_not_come_about_are_found_out(merges, usable):
    assert bool(encoder.tokens_by_rank(learned(merges))) == usable


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
        lambda described: described["model"].update(ignore_merges=True),
        lambda described: described["model"]["vocab"].pop("ÿ"),
        lambda described: described["model"]["merges"].reverse(),
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
    monkeypatch.setattr(encoder, "PIECES", "(?s:.)")
    fast = Encoder(tiny_base)
    assert not fast.check(TRICKY)
    assert ids_of(fast, TRICKY) == own_ids(tiny_base, TRICKY)


def test_the_number_of_processors_changes_nothing(project, monkeypatch):
    monkeypatch.chdir(project.path("."))
    made = []
    for count in (1, 3):
        monkeypatch.setattr(parallel, "processors", lambda count=count: count)
        tokenize.main()
        made.append((files.sha256_of_tree(tokenize.OUTPUT), project.json("logs/tokenize.json")))
    assert made[0] == made[1]


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
    base = Encoder(tmp_path)
    batch = pa.RecordBatch.from_pydict({"text": ["Ёж", "e\u0301"], "line": [1, 7]})
    assert [document.line for document in base.documents(batch[:1])[0]] == [1]
    with pytest.raises(UserError, match="line 7 of the corpus would not come back"):
        base.documents(batch)


def test_what_ends_a_text_and_stands_in_one_is_to_be_stripped_or_divided_at(project):
    project.write_corpus([*many_texts(), "Кот.<|endoftext|>Пёс.<|endoftext|>"])
    project.ok("python", "-m", "stages.validate")
    said = project.ok("python", "-m", "stages.tokenize")
    assert "<|endoftext|> stands in the texts, times: 2; read as plain text. Strip it where a text ends" in said
    assert "base.special_tokens" not in said
    assert project.json("logs/tokenize.json")["special_tokens_in_texts"] == {"<|endoftext|>": 2}


@pytest.mark.parametrize(
    ("by_pieces", "told"),
    [
        (False, "the base's tokenizer is not of GPT-2's usual kind: it does all the work itself, more slowly"),
        (True, "by pieces, some ids differ from the base's own tokenizer's: it does all the work"),
    ],
)
def test_a_stage_whose_base_does_the_work_itself_says_so(monkeypatch, capsys, by_pieces, told):
    base = SimpleNamespace(by_pieces=by_pieces, check=lambda texts: False)
    monkeypatch.setattr(encoder, "Encoder", lambda folder: base)
    monkeypatch.setattr(tokenize.splits, "count_documents", lambda folder, split: 1)
    monkeypatch.setattr(tokenize.splits, "read_documents", lambda folder, split: [{"text": pa.array(["a"])}])
    assert tokenize._encoder() is base
    assert capsys.readouterr().out == f"tokenize: {told}\n"


@pytest.mark.parametrize(("special_tokens", "told"), [("keep", tokenize._KEPT), ("text", tokenize._READ)])
def test_what_becomes_of_special_tokens_in_the_texts_is_said(monkeypatch, capsys, special_tokens, told):
    monkeypatch.setattr(
        tokenize.files, "read_json", lambda path: dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<e>")
    )
    counts = {split: {"rows": 0} for split in tokenize.splits.SPLITS}
    sizes = {"tokens_per_word": None, "bytes_per_token": 4.0, "characters_per_token": 4.0, "dropped_tokens": 0}
    figures = counts | sizes | {"special_tokens_in_texts": {"<s>": 2, "<e>": 1}, "vocabulary_fits": True}
    settings = SimpleNamespace(tokenize=None, base=SimpleNamespace(special_tokens=special_tokens))
    tokenize._summary(figures, settings)
    assert capsys.readouterr().out == (
        "  4.00 bytes and 4.00 characters a token, 0 tokens dropped\n"
        f"  <s> stands in the texts, times: 2; {told}\n"
        f"  <e> stands in the texts, times: 1; {tokenize._AROUND}\n"
    )

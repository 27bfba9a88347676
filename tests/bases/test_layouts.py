"""Every layout in which GPT-2s are published: read as plain transformers reads it, or refused with its reason."""

import re
import shutil

import pytest
import torch
from conftest import HOME, SETTINGS, Project
from layouts import END, LAYOUTS
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from stages import base
from stages.lib.common.cli import UserError
from stages.lib.model import models
from stages.lib.rows import tokens
from stages.lib.rows.encoder import Encoder

ORDINARY = [
    "The cat and the dog, don't they?  12 345",
    "— Ещё не вечер! — «так» сказал он.\n\n\tИ ушёл 🐈‍⬛",
    " blank at both ends ",
    f"written out: {END} <s> </s> <pad> @@ПЕРВЫЙ@@ [PAD]",
]
ACCEPTED = [layout for layout in LAYOUTS if not layout.refused]
REFUSED = [layout for layout in LAYOUTS if layout.refused]


def ids_of(layouts):
    return [f"{number}: {layout.name}" for number, layout in enumerate(layouts)]


@pytest.fixture
def run_base(tmp_path, monkeypatch):
    """Run the stage on a folder made by a layout; return it."""

    def run(layout):
        folder = layout.fill(tmp_path / "source")
        shutil.copy(SETTINGS, tmp_path)
        settings = {"base__folder": "source", "tokenize__max_length": "32"}
        if layout.end_of_text:
            settings["base__end_of_text"] = f'"{layout.end_of_text}"'
        Project(tmp_path).set(**settings)
        monkeypatch.chdir(tmp_path)
        base.main()
        return folder

    return run


@pytest.mark.parametrize("layout", ACCEPTED, ids=ids_of(ACCEPTED))
def test_a_base_is_what_its_source_was(layout, run_base, tmp_path, capsys):
    source = run_base(layout)
    made = tmp_path / "model/base"
    printed = capsys.readouterr().out
    provenance = Project(tmp_path).json("model/base/provenance.json")
    for words in layout.said:
        assert any(words in one for one in provenance["converted"]), provenance["converted"]
        assert words in printed
    assert (provenance["opens_a_text"], provenance["closes_a_text"]) == (layout.opens, layout.closes)
    assert "never read" not in str(provenance["files"])

    # The logits are those of the model whose weights were stored.
    ours = models.load(made)
    ids = torch.randint(0, source.rows, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = source.truth(ids).logits
        assert torch.allclose(ours(ids).logits[..., : source.rows], expected, atol=1e-5)

    # The ids are those of the source's own tokenizer, and every text comes back.
    tokenizer = tokens.Tokenizer(made)
    for text in ORDINARY:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    opening, closing = (tokenizer.library.token_to_id(token) for token in (layout.opens, layout.closes))
    assert (tokenizer.opening, tokenizer.closing) == (opening, closing)
    (document,) = Encoder(made).encode(ORDINARY[:1])
    assert (document[0], document[-1]) == (opening, closing)
    if layout.plain:
        theirs = AutoTokenizer.from_pretrained(source.path)
        for text in ORDINARY[:3]:
            assert tokenizer.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        plain = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            assert torch.allclose(ours(ids).logits, plain.eval()(ids).logits, atol=1e-5)


@pytest.mark.parametrize("layout", ACCEPTED, ids=ids_of(ACCEPTED))
def test_plain_transformers_reads_a_tuned_folder_as_the_pipeline_does(layout, run_base, tmp_path):
    run_base(layout)
    tuned = tmp_path / "model/finetuned"
    models.save_tuned(models.load(tmp_path / "model/base"), tmp_path / "model/base", tuned)
    ours, theirs = tokens.Tokenizer(tuned), AutoTokenizer.from_pretrained(tuned)
    for text in ORDINARY:
        assert theirs(text)["input_ids"] == [ours.opening, *ours.encode(text)]
    assert (theirs.bos_token, theirs.eos_token) == (layout.opens, layout.closes)
    assert set(theirs(ORDINARY[0])) == {"input_ids", "attention_mask"}
    model = AutoModelForCausalLM.from_pretrained(tuned)
    ids = torch.tensor([[ours.opening, *ours.encode(ORDINARY[0])]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, models.load(tuned)(ids).logits, atol=1e-4)
    # Two prompts of different length at once: what pads the shorter one does not change what it gives.
    write = pipeline("text-generation", str(tuned), do_sample=False)
    prompts = ["The cat and the dog", "he"]
    alone = [write(prompt, max_new_tokens=5, do_sample=False)[0]["generated_text"] for prompt in prompts]
    together = write(prompts, max_new_tokens=5, do_sample=False, batch_size=2)
    assert [one[0]["generated_text"] for one in together] == alone


@pytest.mark.parametrize("layout", REFUSED, ids=ids_of(REFUSED))
def test_what_cannot_be_tuned_is_refused_with_its_reason(layout, run_base, tmp_path):
    with pytest.raises(UserError) as caught:
        run_base(layout)
    message = str(caught.value)
    assert "\n" not in message
    for words in layout.refused:
        assert words in message
    assert not (tmp_path / "model/base").exists()


def test_the_page_of_models_has_a_row_for_each_layout():
    page = (HOME / "docs/models.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| (taken|refused)", page, re.MULTILINE))
    settled = {layout.name for layout in LAYOUTS if layout.end_of_text}
    outcomes = {layout.name: "refused" if layout.refused else "taken" for layout in LAYOUTS}
    assert rows == outcomes | dict.fromkeys(settled, "taken")
    for layout in LAYOUTS:
        if layout.end_of_text:
            assert f"`base.end_of_text: {layout.end_of_text}`".replace("|", r"\|") in page


def test_only_models_of_the_table_are_suggested():
    tried = ", ".join(layout.name for layout in LAYOUTS)
    suggesting = ["README.md", "README.ru.md", "params.yaml", "docs/models.md", "docs/models.ru.md"]
    suggesting += [path.relative_to(HOME).as_posix() for path in (HOME / "stages").rglob("*.*") if path.is_file()]
    found = set()
    for name in suggesting:
        if not name.endswith(".pyc"):
            text = (HOME / name).read_text(encoding="utf-8")
            found |= set(re.findall(r"\b(?:openai-community|ai-forever|distilbert|microsoft)/[\w.-]+\w", text))
    assert {"openai-community/gpt2", "ai-forever/rugpt3small_based_on_gpt2"} <= found
    for model in found:
        assert any(model.startswith(one) for one in re.split(", ", tried)), model

"""Our scores against those of other tools, each in an environment of its own: lm-eval, and transformers as it was."""

import json
import subprocess

import numpy as np
import pytest
from conftest import HOME, TEXTS, environment
from servers import make_environment

from stages.lib.bases import conversion
from stages.lib.model import generation, models, scoring
from stages.lib.rows import tokens
from stages.lib.rows.packing import Document

LM_EVAL = "lm-eval==0.4.13"
TRANSFORMERS_4 = "transformers==4.57.6"
DOCUMENTS = 50

SCRIPT = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

# The tokenizer would put another <|endoftext|> behind the one that lm-eval begins with.
model = HFLM(pretrained=sys.argv[1], dtype="float32", device="cpu", add_bos_token=False)
texts = json.load(sys.stdin)
requests = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
json.dump(model.loglikelihood_rolling(requests), sys.stdout)
"""


@pytest.fixture(scope="module")
def lm_eval_python(tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("lm-eval"), (LM_EVAL,), inherit=True) / "python"


@pytest.mark.slow
def test_log_likelihoods_equal_those_of_lm_eval(lm_eval_python, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    conversion.normalise(HOME / "model/embedded", "embedded", base)
    lines = (HOME / "data/my_corpus.jsonl").read_text(encoding="utf-8").splitlines()[:DOCUMENTS]
    texts = [json.loads(line)["text"] for line in lines]
    theirs = subprocess.run(
        [lm_eval_python, "-c", SCRIPT, str(base)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        env=environment(HF_HUB_OFFLINE="1"),
    )
    assert theirs.returncode == 0, theirs.stderr
    model, tokenizer = models.load(base), tokens.Tokenizer(base)
    documents = []
    for line, text in enumerate(texts, 1):
        documents.append(Document(line, tokenizer.document(tokenizer.encode(text)), len(text.encode())))
    ours = [-score.nats for score in scoring.score_documents(model, documents)]
    assert len(ours) == DOCUMENTS
    np.testing.assert_allclose(ours, json.loads(theirs.stdout), rtol=1e-4)


READ_BY_4 = """
import json, sys
from pathlib import Path
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Tokenizer, pipeline

assert transformers.__version__.startswith("4."), transformers.__version__
folder, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
encoded = tokenizer(text, return_tensors="pt")
with torch.no_grad():
    loss = model(**encoded, labels=encoded["input_ids"]).loss.item()
write = pipeline("text-generation", model=model, tokenizer=tokenizer)
texts = write(["Жил-был", "Кот"], do_sample=False, max_new_tokens=8, batch_size=2)
written = [text[0]["generated_text"] for text in texts]
found = {"inputs": sorted(encoded), "ids": encoded["input_ids"][0].tolist(), "loss": loss, "written": written}
if (Path(folder) / "vocab.json").exists():  # the older form, beside the other in what the stages write
    found["slow"] = GPT2Tokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_transformers_before_reads_our_folders_as_we_do(tmp_path):
    python = make_environment(tmp_path / "environment", (TRANSFORMERS_4,), inherit=True) / "python"
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    base.mkdir()
    conversion.normalise(HOME / "model/embedded", "embedded", base)
    models.save_tuned(models.load(base), base, tuned)
    text = " ".join(TEXTS)
    for folder in (HOME / "model/embedded", base, tuned):
        done = subprocess.run(
            [python, "-c", READ_BY_4, str(folder), text],
            capture_output=True,
            text=True,
            env=environment(HF_HUB_OFFLINE="1"),
        )
        assert done.returncode == 0, done.stderr
        theirs = json.loads(done.stdout.splitlines()[-1])
        model, tokenizer = models.load(folder), tokens.Tokenizer(folder)
        ids = tokenizer.encode(text)
        assert theirs["inputs"] == ["attention_mask", "input_ids"]
        assert theirs["ids"] == [tokenizer.opening, *ids]
        assert theirs.get("slow") == (None if folder.name == "embedded" else ids)
        (score,) = scoring.score_documents(model, [Document(1, tokenizer.document(ids), len(text.encode()))])
        assert theirs["loss"] == pytest.approx(score.nats / score.tokens, rel=1e-4)
        how = generation.Sampling(8, temperature=0)
        ours = [
            prompt + generation.continue_text(model, tokenizer, prompt, how, 0).text for prompt in ("Жил-был", "Кот")
        ]
        assert theirs["written"] == ours

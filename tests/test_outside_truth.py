"""Our scores against those of EleutherAI's lm-eval, in an environment of its own."""

import json
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
from conftest import HOME, environment

from stages.lib import bases, models, scoring, tokens
from stages.lib.packing import Document

LM_EVAL = "lm-eval==0.4.13"
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
    """A Python with lm-eval, which sees this one's packages too, so that torch is not installed once more."""
    folder = tmp_path_factory.mktemp("lm-eval")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin/python")
    paths = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    with open(f"{paths.stdout.strip()}/shared.pth", "w", encoding="utf-8") as shared:
        shared.write(sysconfig.get_path("purelib") + "\n")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", LM_EVAL]
    subprocess.run(command, check=True)
    return python


@pytest.mark.slow
def test_log_likelihoods_equal_those_of_lm_eval(lm_eval_python, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    bases.normalise(HOME / "model/embedded", "embedded", base)
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

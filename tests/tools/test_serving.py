"""Servers with the interface of OpenAI, asked by its own client: the likeliest text is the one written here."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import HOME, environment
from export_forms import written
from servers import free_port, make_environment, running

from stages.lib.bases import conversion
from stages.lib.model import generation, models
from stages.lib.rows import tokens

pytestmark = pytest.mark.release

OPENAI = "openai==3.57.0"
TRANSFORMERS = ("transformers[serving]==5.18.0", OPENAI)
LLAMA_CPP = "llama-cpp-python==0.3.36"  # beside whose sources stand those of llama.cpp
PROMPTS = ["Жил-был", "— А скажите, пожалуйста, —", "The kettle"]
NEW_TOKENS = 40
ASK = """
import json, sys
from openai import OpenAI

client, told = OpenAI(base_url=sys.argv[1], api_key="none", timeout=600), []
for prompt in json.load(sys.stdin):
    how = dict(model=sys.argv[2], prompt=prompt, max_tokens=int(sys.argv[3]), temperature=0)
    pieces = [part.choices[0].text for part in client.completions.create(**how, stream=True) if part.choices]
    told.append([client.completions.create(**how).choices[0].text, pieces])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The model that ships, in the form of model/finetuned."""
    folder = tmp_path_factory.mktemp("served") / "model/finetuned"
    folder.mkdir(parents=True)
    conversion.normalise(HOME / "model/embedded", "embedded", folder)
    return folder


@pytest.fixture(scope="module")
def ours(base):
    """The likeliest text after each prompt."""
    model, tokenizer = models.load(base), tokens.Tokenizer(base)
    greedy = generation.Sampling(NEW_TOKENS, temperature=0)
    return [generation.continue_text(model, tokenizer, prompt, greedy, 0).text for prompt in PROMPTS]


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory):
    """llama.cpp's own server, built from source."""
    folder = tmp_path_factory.mktemp("llama.cpp")
    get = ["pip", "download", "--quiet", "--no-deps", "--no-binary", LLAMA_CPP.partition("==")[0], LLAMA_CPP]
    subprocess.run([sys.executable, "-m", *get], cwd=folder, check=True)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    (source,) = folder.glob("*/vendor/llama.cpp")
    without = [f"-DLLAMA_{what}=OFF" for what in ("CURL", "BUILD_TESTS", "BUILD_EXAMPLES")]
    configure = ["cmake", "-S", source, "-B", folder / "build", "-DCMAKE_BUILD_TYPE=Release", *without]
    subprocess.run(configure, check=True, capture_output=True)
    build = ["cmake", "--build", folder / "build", "--target", "llama-server", "--parallel"]
    subprocess.run(build, check=True, capture_output=True)
    return folder / "build/bin/llama-server"


def answers(bin_folder, command, port, model):
    """What the server of this command says to each prompt: at once, and in pieces."""
    with running(command, port):
        done = subprocess.run(
            [bin_folder / "python", "-c", ASK, f"http://127.0.0.1:{port}/v1", model, str(NEW_TOKENS)],
            input=json.dumps(PROMPTS),
            capture_output=True,
            text=True,
            env=environment(),
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_transformers_serve_writes_what_is_written_here(base, ours, tmp_path, proofs):
    port, model = free_port(), str(base)
    bin_folder = make_environment(tmp_path / "venv", TRANSFORMERS, inherit=True)
    # The command itself stands in the environment that is inherited, and would take the libraries of that one alone.
    start = "from transformers.cli.transformers import main; main()"
    command = [bin_folder / "python", "-c", start, "serve", model, "--host", "127.0.0.1", "--port", port]
    told = answers(bin_folder, command, port, model)
    assert [whole for whole, _ in told] == ours
    assert ["".join(pieces) for _, pieces in told] == ours
    assert all(len(pieces) > NEW_TOKENS / 2 for _, pieces in told)  # as it is written
    proofs(f"transformers serve: the likeliest texts of {len(PROMPTS)} prompts, {NEW_TOKENS} tokens each")


def test_llama_server_writes_what_is_written_here(base, ours, llama_server, tmp_path, proofs):
    port, path = free_port(), written(base, tmp_path)
    bin_folder = make_environment(tmp_path / "venv", (OPENAI,))
    command = [llama_server, "-m", path, "--host", "127.0.0.1", "--port", port]
    told = answers(bin_folder, command, port, path.stem)
    assert [whole for whole, _ in told] == ours
    assert ["".join(pieces) for _, pieces in told] == ours
    assert all(len(pieces) > NEW_TOKENS / 2 for _, pieces in told)
    proofs(f"llama-server: the likeliest texts of {len(PROMPTS)} prompts, {NEW_TOKENS} tokens each")

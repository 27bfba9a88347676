"""Publishing, by the real client, on a Hub at the loopback address."""

import json

import pytest
from conftest import Inside
from hub_server import TOKEN, Hub
from hub_writing import ATTRIBUTES, TOKEN_TO_READ
from huggingface_hub import constants

from stages.lib.common.cli import UserError
from stages.lib.hub import patience
from tools import publish, release

NAME = "somebody/my-gpt2"
DRY_RUN = ("python", "-m", "tools.publish", NAME, "--licence-seen", "--dry-run")
PUBLISH = DRY_RUN[:-1]
MODEL = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
WEIGHTS = "X-Signature"  # as the storage is given them


@pytest.fixture
def hub():
    with Hub() as server:
        yield server


@pytest.fixture
def logged_in(hub, reproduced, monkeypatch):
    """The project of somebody who may write, its commands in this process; that it is up to date is not looked at."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(patience, "_TRIES_UNHEARD", 1)
    monkeypatch.setattr(release, "refuse_what_is_out_of_date", lambda: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return Inside(reproduced.folder, **reproduced.env)


def published(hub):
    repository = hub.repositories[NAME]
    return repository.commits[repository.refs["main"]]


@pytest.mark.slow
def test_what_is_published_is_the_model_its_card_and_how_it_came_about(hub, project):
    """As a user types it, twice."""
    env = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
    output = project.ok(*PUBLISH, "--license", "apache-2.0", **env)
    files = published(hub)
    assert files.keys() >= MODEL
    for name in files.keys() - {"README.md", ".gitattributes", *publish.RUN}:
        assert files[name] == project.path(f"model/finetuned/{name}").read_bytes()
    for name, path in publish.RUN.items():
        assert files[name] == project.path(str(path)).read_bytes()
    card = project.path("model/MODEL_CARD.md").read_text(encoding="utf-8").replace("model/finetuned", NAME)
    assert files["README.md"].decode() == card.replace("---\n", "---\nlicense: apache-2.0\n", 1)
    assert hub.repositories[NAME].private
    assert f"{hub.address}/{NAME} has it at commit {hub.repositories[NAME].refs['main']}" in output

    again = project.ok(*PUBLISH, "--license", "mit", **env)
    assert "license: mit" in published(hub)["README.md"].decode()
    assert published(hub).keys() == files.keys()
    assert f"at commit {hub.repositories[NAME].refs['main']}" in again
    assert len([one for one in hub.asked if one.method == "PUT"]) == 1  # the weights were there

    project.set(train__epochs="2")
    assert "run dvc repro first" in project.fails(*PUBLISH, **env)


def refusal(project, *more):
    """The one line, after those about the files, with which it ends."""
    error = project.fails(*PUBLISH, *more)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error.removeprefix("error: ").rstrip("\n")


def test_a_dry_run_shows_every_file_and_its_size_and_asks_nobody(hub, logged_in):
    lines = logged_in.ok(*DRY_RUN).splitlines()
    *listed, total, yours, last = [line.split() for line in lines]
    assert yours[:3] == ["run/params.yaml", "and", "run/dvc.lock"]
    assert last == ["Nothing", "was", "sent."]
    sizes = {name: int(size.replace(",", "")) for size, name in listed}
    assert sizes.keys() == {
        "README.md",
        *(path.name for path in logged_in.path("model/finetuned").iterdir()),
        *publish.RUN,
    }
    for name in MODEL:
        assert sizes[name] == logged_in.path(f"model/finetuned/{name}").stat().st_size
    assert total[:2] == [str(len(listed)), "files,"]
    assert hub.asked == []


def test_texts_of_the_corpus_go_along_only_when_asked_for(hub, logged_in):
    logged_in.ok(*PUBLISH)
    texts = [
        sample["prompt"] for sample in map(json.loads, logged_in.path("logs/samples.jsonl").open()) if sample["line"]
    ]
    assert texts
    for content in published(hub).values():
        assert not any(text.encode() in content for text in texts)
    logged_in.ok(*PUBLISH, "--report")
    assert published(hub)["run/report.html"] == logged_in.path("logs/report.html").read_bytes()


def test_what_is_no_file_of_a_model_is_not_published(logged_in):
    stranger = logged_in.path("model/finetuned/corpus.jsonl")
    stranger.write_text("mine")
    try:
        assert refusal(logged_in) == (
            "model/finetuned/corpus.jsonl is no file of a model: take it away, it would be published"
        )
    finally:
        stranger.unlink()


@pytest.mark.parametrize("licence", ["mit", "MIT", "apache-2.0", "cc-by-nc-sa-4.0", "gpl-3.0", "bsd", "openrail"])
def test_a_licence_that_allows_it(licence):
    publish.refuse_for_its_licence(licence, seen=False)


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        (None, "whether what is made of the base model may be passed on: it states no licence. Find that out, then"),
        ("other", "it is under other, which is not known here. Find that out"),
        ("mit-like", "is not known here"),
        ("cc-by-nc-nd-4.0", "is under cc-by-nc-nd-4.0, which forbids to pass on a changed version"),
    ],
)
def test_a_licence_that_does_not_allow_it_or_says_nothing(licence, expected):
    with pytest.raises(UserError, match=expected):
        publish.refuse_for_its_licence(licence, seen=False)
    if "forbids" in expected:
        with pytest.raises(UserError, match=expected):
            publish.refuse_for_its_licence(licence, seen=True)
    else:
        publish.refuse_for_its_licence(licence, seen=True)


def test_the_licence_is_looked_at_before_anything_is_sent(hub, logged_in):
    error = logged_in.fails("python", "-m", "tools.publish", NAME)
    assert "it states no licence" in error  # the tiny one of the tests
    assert hub.asked == []


# Who may


def test_without_a_token(logged_in, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert refusal(logged_in) == (
        "the Hub takes models from who is logged in: run hf auth login, or set HF_TOKEN, with a token that may write"
    )


def test_with_a_token_that_is_none(logged_in, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert refusal(logged_in).startswith("the Hub does not accept your token: run hf auth login")


def test_with_a_token_that_may_only_read(hub, logged_in, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN_TO_READ)
    assert refusal(logged_in).startswith(
        f"your token may not write to {NAME} (You don't have the rights to create a model under the namespace "
    )
    assert hub.repositories == {}


def test_into_a_repository_of_somebody_else(hub, logged_in):
    other = ("python", "-m", "tools.publish", "others/my-gpt2", "--licence-seen")
    assert "your token may not write to others/my-gpt2" in logged_in.fails(*other)


# What is there


def test_what_something_else_is_called_stays_as_it_is(hub, logged_in):
    held = {"config.json": b"{}", ".gitattributes": ATTRIBUTES}
    hub.add(NAME, held, private=True)
    assert refusal(logged_in) == f"{NAME} is there already and holds something else (config.json): take another name"
    assert published(hub) == held


def test_an_empty_repository_that_was_made_by_hand_is_filled(hub, logged_in):
    hub.add(NAME, {".gitattributes": ATTRIBUTES}, private=True)
    logged_in.ok(*PUBLISH)
    assert published(hub).keys() >= MODEL


def test_what_is_not_sent_again_is_not_there_any_more(hub, logged_in):
    """A report with texts of the corpus, and the weights of an older base."""
    logged_in.ok(*PUBLISH, "--report")
    repository = hub.repositories[NAME]
    index = "model.safetensors.index.json"
    published(hub).update({index: b"{}", "model-00001-of-00002.safetensors": b"", "mine.png": b"drawn"})
    gone = f"model-00001-of-00002.safetensors, {index}, run/report.html"
    assert f"Of the model before, this is gone, but for the history: {gone}" in logged_in.ok(*PUBLISH)
    assert published(hub).keys() >= MODEL | publish.RUN.keys() | {"README.md", ".gitattributes", "mine.png"}
    assert not published(hub).keys() & set(gone.split(", "))
    assert repository.private
    assert "is gone" not in logged_in.ok(*PUBLISH)


def test_nothing_gets_public_unasked(hub, logged_in):
    hub.add(NAME, {".gitattributes": ATTRIBUTES})
    assert refusal(logged_in) == f"{NAME} is public already: --public publishes there, or take another name"
    logged_in.ok(*PUBLISH, "--public")
    assert published(hub).keys() >= MODEL


def test_a_new_one_is_public_when_asked_for(hub, logged_in):
    logged_in.ok(*PUBLISH, "--public")
    assert not hub.repositories[NAME].private


def test_a_private_one_stays_so_and_that_is_said(hub, logged_in):
    hub.add(NAME, {".gitattributes": ATTRIBUTES}, private=True)
    assert "It is private, as it was" in logged_in.ok(*PUBLISH, "--public")
    assert hub.repositories[NAME].private


def test_one_that_was_renamed(hub, logged_in):
    hub.add("somebody/other", {".gitattributes": ATTRIBUTES})
    hub.renamed[NAME] = "somebody/other"
    assert refusal(logged_in) == f"{NAME} is called somebody/other on the Hub now: publish to that"


# What goes wrong on the way


def test_when_nobody_answers(logged_in, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refusal(logged_in) == (
        "127.0.0.1:9 is not reached (no connection): look to your network, then run the same command again: it goes on "
        "where it stopped"
    )


def gone():
    raise ConnectionResetError


@pytest.mark.parametrize(
    ("path", "fault", "expected"),
    [
        ("/api/repos/create", {"status": 500}, "{hub} answered 500"),
        ("/preupload/main", {"status": 503}, "{hub} answered 503"),
        ("/info/lfs/objects/batch", {"status": 422}, "{hub} answered 422"),
        (WEIGHTS, {"status": 403}, "{storage} answered 403"),
        (WEIGHTS, {"then": gone}, "{hub} is not reached (the connection broke)"),
        ("/commit/main", {"status": 409}, "{hub} answered 409"),
        ("/commit/main", {"then": gone}, "{hub} is not reached (the connection broke)"),
    ],
)
def test_what_breaks_off_leaves_the_repository_as_it_was(hub, logged_in, monkeypatch, path, fault, expected):
    """And the same command goes on."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    made = hub.fail(path, **fault)
    hosts = {"hub": hub.address.removeprefix("http://"), "storage": hub.storage.removeprefix("http://")}
    assert refusal(logged_in).startswith(expected.format(**hosts))
    if path == "/api/repos/create":
        assert hub.repositories == {}
    else:
        assert published(hub) == {".gitattributes": ATTRIBUTES}
    hub.faults.remove(made)
    logged_in.ok(*PUBLISH)
    assert published(hub).keys() >= MODEL


def test_a_card_that_the_hub_does_not_take(hub, logged_in):
    body = b'{"errors": [{"message": "license must be one of the list"}], "warnings": []}'
    hub.fail("/api/validate-yaml", status=400, body=body)
    assert "did not take it: Invalid metadata in README.md" in refusal(logged_in)
    assert published(hub) == {".gitattributes": ATTRIBUTES}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["my-gpt2"], "argument OWNER/NAME: my-gpt2 is not of that form"),
        ([NAME, "--license", "my own"], "argument --license: my own is no name that the Hub has for a licence"),
        (["somebody/a..b", "--licence-seen"], "somebody/a..b is no name a model of the Hub can have: take another"),
    ],
)
def test_names_that_are_none(logged_in, arguments, expected):
    assert expected in logged_in.fails("python", "-m", "tools.publish", *arguments)

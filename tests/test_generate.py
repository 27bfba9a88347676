"""generate.py, as a user types it."""

import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys

import pytest
import torch
from conftest import TEXTS, Inside, copy_project, environment
from transformers import AutoTokenizer, GPT2LMHeadModel

import generate
from stages.lib.bases import conversion
from stages.lib.common.cli import UserError
from stages.lib.model import generation, models
from stages.lib.rows import tokens


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_base):
    made = Inside(copy_project(tmp_path_factory.mktemp("project")).folder)
    for name in ("base", "finetuned"):
        shutil.rmtree(made.path(f"model/{name}"), ignore_errors=True)
        made.path(f"model/{name}").mkdir(parents=True)
        conversion.normalise(tiny_base, "tiny", made.path(f"model/{name}"))
    tuned = models.load(made.path("model/finetuned"))
    with torch.no_grad():
        tuned.transformer.wte.weight.mul_(0.5)
    models.save_tuned(tuned, made.path("model/base"), made.path("model/finetuned"))
    return made


def test_the_same_seed_writes_the_same_text(project):
    first = project.ok("python", "generate.py", "Кот", "--seed", "3", "--tokens", "30")
    assert first.startswith("Кот")
    assert len(first) > len("Кот\n")
    assert project.ok("python", "generate.py", "Кот", "--seed", "3", "--tokens", "30") == first
    assert project.ok("python", "generate.py", "Кот", "--seed", "4", "--tokens", "30") != first


def test_without_a_seed_it_says_which_one_writes_the_text_again(project):
    result = project.run("python", "generate.py", "Кот", "--tokens", "20")
    seed = result.stderr.split("--seed ")[1].split()[0]
    assert project.ok("python", "generate.py", "Кот", "--tokens", "20", "--seed", seed) == result.stdout


def test_base_uses_the_model_training_started_from(project):
    greedy = ("python", "generate.py", "Утром", "--seed", "0", "--temperature", "0", "--tokens", "12")
    assert project.ok(*greedy) != project.ok(*greedy, "--base")


def test_the_likeliest_tokens_are_those_transformers_chooses(project):
    folder = project.path("model/base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = torch.tensor([tokenizer("Утром")["input_ids"]])
    expected = []
    for _ in range(12):
        with torch.no_grad():
            expected.append(model(ids).logits[0, -1].argmax().item())
        if expected[-1] == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, torch.tensor([[expected[-1]]])], 1)
    text = tokenizer.decode(expected, skip_special_tokens=True).rstrip(generation.BROKEN)
    ours = generation.continue_text(
        models.load(folder), tokens.Tokenizer(folder), "Утром", generation.Sampling(12, temperature=0), seed=0
    )
    assert ours.text == text
    assert ours.ended == (expected[-1] == tokenizer.eos_token_id)


def test_the_pieces_make_up_the_text_and_no_character_comes_out_broken(tiny_base):
    model, tokenizer = models.load(tiny_base), tokens.Tokenizer(tiny_base)
    count = 0
    for seed in range(10):
        pieces = []
        drawn = generation.Sampling(60, temperature=2.0, top_p=1.0)
        whole = generation.continue_text(model, tokenizer, "Ёж 🐈", drawn, seed, pieces.append)
        assert pieces.pop(0) == "Ёж 🐈"
        count += len(pieces)
        # A random model's bytes are often no characters at all; they are decoded alike at once and in pieces.
        assert "".join(pieces).rstrip(generation.BROKEN) == whole.text
    assert count > 50


def test_characters_of_several_tokens_come_whole(tiny_base, monkeypatch):
    model, tokenizer = models.load(tiny_base), tokens.Tokenizer(tiny_base)
    text = "Ёж и 🐈‍⬛ у реки"
    ids = tokenizer.encode(text)
    assert len(ids) > len(text.split())

    monkeypatch.setattr(model, "generate", writes(ids))
    pieces = []
    generation.continue_text(model, tokenizer, "", generation.Sampling(1), 0, pieces.append)
    assert "".join(pieces) == text
    assert pieces[0] == ""  # the prompt
    assert all(generation.BROKEN not in piece for piece in pieces)


def writes(ids):
    """In place of a model's `generate`: these tokens, whatever the prompt, for as long as it may go on."""

    def generate(prompt_ids, *, stopping_criteria, **_):
        for token in ids:
            prompt_ids = torch.cat([prompt_ids, torch.tensor([[token]])], 1)
            if stopping_criteria(prompt_ids, None).all():
                break
        return prompt_ids

    return generate


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("река",), "Ёж и 🐈‍⬛ у "),
        (("нет такого",), None),
        (("реки. Ночью",), None),  # held back to the end, and then handed on
        (("у реки ночью", "у"), "Ёж и 🐈‍⬛ "),  # the shorter one comes true first
        (("и 🐈‍⬛",), "Ёж "),  # of several tokens, some of which are parts of characters
        (("\n",), "Ёж и 🐈‍⬛ у река."),
    ],
)
def test_a_text_ends_before_the_first_string_to_stop_at(tiny_base, monkeypatch, stop, expected):
    model, tokenizer = models.load(tiny_base), tokens.Tokenizer(tiny_base)
    text = "Ёж и 🐈‍⬛ у река.\nИ снова река, у реки."
    monkeypatch.setattr(model, "generate", writes(tokenizer.encode(text)))
    pieces = []
    settings = generation.Sampling(60, stop=stop)
    written = generation.continue_text(model, tokenizer, "", settings, 0, pieces.append)
    assert written.text == (text if expected is None else expected)
    assert written.ended == (expected is not None)
    # What was seen as it came is the same, and nothing had to be taken back.
    assert "".join(pieces) == written.text
    assert generation.continue_text(model, tokenizer, "", settings, 0).text == written.text


def test_stopping_early_changes_nothing_before(project):
    whole = project.ok("python", "generate.py", "Кот", "--seed", "5", "--tokens", "40")
    stop = whole[len(whole) // 2]
    assert stop not in "Кот\n…"
    early = project.ok("python", "generate.py", "Кот", "--seed", "5", "--tokens", "40", "--stop", stop)
    assert early == whole[: whole.index(stop)] + "\n"


def test_prompts_from_a_file_become_json_lines(project):
    project.path("prompts.txt").write_text("\ufeffКот\r\n\nСнег идёт\n", encoding="utf-8")
    project.ok(
        *("python", "generate.py", "--prompts", "prompts.txt", "--output", "texts.jsonl"),
        *("--samples", "2", "--compare", "--tokens", "9", "--seed", "7"),
    )
    found = [json.loads(line) for line in project.path("texts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(one["prompt"], one["seed"], one["model"]) for one in found] == [
        (prompt, seed, model) for prompt in ("Кот", "Снег идёт") for seed in (7, 8) for model in ("base", "tuned")
    ]
    # Each can be written again by itself.
    for one in found[4:]:
        base = ["--base"] if one["model"] == "base" else []
        again = project.ok("python", "generate.py", one["prompt"], "--seed", str(one["seed"]), "--tokens", "9", *base)
        assert again == one["prompt"] + one["text"] + ("\n" if one["ended"] else "…\n")


def test_prompts_of_several_lines_come_from_json_lines(project):
    project.path("many.jsonl").write_text(json.dumps({"prompt": "Раз\nДва"}) + "\n", encoding="utf-8")
    output = project.ok("python", "generate.py", "--prompts", "many.jsonl", "--output", "-", "--tokens", "3")
    assert json.loads(output)["prompt"] == "Раз\nДва"


def test_samples_are_parted_by_what_is_in_none_of_them(project):
    command = ("python", "generate.py", "--samples", "3", "--tokens", "12", "--seed", "7", "--temperature", "1.5")
    whole = project.ok(*command, stdin="Утром\nКот\n")
    parts = whole.removesuffix("\n").split("\n\f\n")
    assert [part.split()[0][:3] for part in parts] == ["Утр"] * 3 + ["Кот"] * 3
    (alone,) = project.ok(*command[:3], "1", *command[4:], stdin="Кот\n").removesuffix("\n").split("\n\f\n")
    assert alone == parts[3]


def test_a_form_feed_of_a_sample_itself_parts_nothing(tiny_base, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["generate.py", "x", "--samples", "2", "--seed", "1"])
    monkeypatch.setitem(generate.FOLDERS, "tuned", tiny_base)
    monkeypatch.setattr(
        generation, "continue_text", lambda *given: given[-1]("a\fb") or generation.Continuation("", [], True)
    )
    generate.main()
    assert capsys.readouterr().out == "a\nb\n\f\na\nb\n"


def test_on_a_terminal_each_sample_has_its_number(tiny_base, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["generate.py", "Кот", "--samples", "2", "--seed", "1", "--tokens", "3"])
    monkeypatch.setitem(generate.FOLDERS, "tuned", tiny_base)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    generate.main()
    shown = capsys.readouterr().out
    assert re.findall(r"^--- (\d) of 2 ---\nКот", shown, re.MULTILINE) == ["1", "2"]
    assert "\f" not in shown


def test_compare_shows_both_models(project):
    lines = project.ok(
        "python", "generate.py", "Утром", "--compare", "--temperature", "0", "--tokens", "12", "--seed", "1"
    )
    base = project.ok("python", "generate.py", "Утром", "--base", "--temperature", "0", "--tokens", "12", "--seed", "1")
    tuned = project.ok("python", "generate.py", "Утром", "--temperature", "0", "--tokens", "12", "--seed", "1")
    assert lines == f"[base model] {base}[tuned model] {tuned}"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("b.jsonl", "[" * 100_000, 'b.jsonl, line 1: not of the form {"prompt": "..."}'),
        ("b.jsonl", '{"prompt": "Кот"}\n{"text": "Снег"}\n', 'b.jsonl, line 2: not of the form {"prompt": "..."}'),
        (
            "b.jsonl",
            '{"prompt": "Кот"}\n{"prompt": "\\ud800"}\n',
            "b.jsonl, line 2: half a surrogate pair, which is",
        ),
        ("c.txt", "\n \n", "c.txt holds no prompt"),
        ("d.txt", None, "d.txt cannot be read: No such file"),
        ("e.txt", "Кот\n".encode("cp1251"), "e.txt, line 1: not UTF-8"),
    ],
)
def test_bad_prompts_in_a_file_are_named_before_anything_is_written(project, name, content, expected):
    if content is not None:
        project.path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    error = project.fails("python", "generate.py", "--prompts", name, "--output", f"{name}.out")
    assert expected in error.splitlines()[-1]
    assert not project.path(f"{name}.out").exists()


def test_a_device_is_written_to(project):
    """Nothing there is overwritten: a pipe, or the place where all is lost."""
    project.ok("python", "generate.py", "Кот", "--tokens", "3", "--output", "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_what_is_there_already_is_not_overwritten(project):
    project.path("kept.jsonl").write_text("mine\n")
    error = project.fails("python", "generate.py", "Кот", "--output", "kept.jsonl")
    assert "kept.jsonl is there already" in error
    assert project.path("kept.jsonl").read_text() == "mine\n"


def test_after_ctrl_c_the_finished_texts_are_there(project, monkeypatch, capsys):
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(generate, "FOLDERS", generate.FOLDERS | {"tuned": project.path("model/finetuned")})
    project.path("three.txt").write_text("a\nb\nc\n")
    monkeypatch.setattr(
        sys, "argv", ["generate.py", "--prompts", "three.txt", "--output", "three.jsonl", "--tokens", "3"]
    )
    write, done = generate.Writer.lines, []

    def lines(writer, prompt):
        for line in write(writer, prompt):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(line)
            yield line

    monkeypatch.setattr(generate.Writer, "lines", lines)
    with pytest.raises(SystemExit) as ended:
        generate.cli.run(generate.main)
    assert ended.value.code == 130
    assert "three.jsonl has the first 2 of the texts" in capsys.readouterr().err
    assert project.path("three.jsonl").read_text(encoding="utf-8") == "".join(done)
    project.path("three.jsonl").unlink()
    with pytest.raises(SystemExit):
        generate.cli.run(generate.main)
    assert not project.path("three.jsonl").exists()  # nothing was finished this time


@pytest.mark.parametrize(
    ("command", "status", "out", "error"),
    [
        ("python generate.py Кот --tokens 3 --seed 1 <&-", 0, "Кот", ""),
        ("python generate.py --prompts - <&-", 1, "", "standard input holds no prompt"),
        ("python generate.py Кот --tokens 3 --seed 1 >&-", 0, "", ""),
        ("PYTHONIOENCODING=ascii python generate.py -Кот --tokens 3 --output -", 2, "", "unrecognized arguments: -"),
        ("PYTHONIOENCODING=ascii python generate.py --tokens 3 --output - -- -Кот", 0, '{"prompt": "-Кот"', ""),
        ("PYTHONIOENCODING=latin-1 python generate.py --tokens 3 --seed 1 Кот", 0, "\\u041a\\u043e\\u0442", ""),
        ("echo x > file && python generate.py Кот --output file/texts", 1, "", "a file stands where a folder belongs"),
        ('echo \'{"prompt": "a"}\' > P.JSONL && python generate.py --prompts P.JSONL --seed 1 --tokens 3', 0, "a", ""),
    ],
)
def test_streams_and_names_that_are_unusual(project, command, status, out, error):
    done = subprocess.run(["bash", "-c", command], cwd=project.folder, env=environment(), capture_output=True)
    assert done.returncode == status, done.stderr.decode()
    assert done.stdout.decode("utf-8").startswith(out)
    assert error in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("prompt", ["Кот ", "Кот  ", "Кот\n", "Кот\n\n", "Кот\t", " ", "\n"])
def test_white_space_at_the_end_of_a_prompt_goes_into_the_first_token(tiny_base, monkeypatch, prompt):
    """Its probability is that of plain transformers after the prompt without it, given that the text goes on so."""
    model, tokenizer = models.load(tiny_base), tokens.Tokenizer(tiny_base)
    plain = GPT2LMHeadModel.from_pretrained(tiny_base, attn_implementation="eager").double().eval()
    before = [plain.config.eos_token_id, *tokenizer.encode(prompt[:-1])]
    with torch.no_grad():
        expected = torch.softmax(plain(torch.tensor([before])).logits[0, -1], -1)
    fitting = [tokenizer.decode([id]).startswith(prompt[-1]) for id in range(plain.config.vocab_size)]
    expected = torch.where(torch.tensor(fitting), expected, 0.0)
    expected /= expected.sum()
    drawn_by, multinomial = [], torch.multinomial

    def watched(probabilities, *args, **more):
        drawn_by.append(probabilities[0].double())
        return multinomial(probabilities, *args, **more)

    monkeypatch.setattr(torch, "multinomial", watched)
    pieces = []
    how = generation.Sampling(8, temperature=1.0, top_p=1.0)
    written = generation.continue_text(model, tokenizer, prompt, how, 3, pieces.append)
    assert torch.allclose(drawn_by[0], expected, atol=1e-6)
    assert len(drawn_by) > 1
    assert not torch.equal(drawn_by[1] > 0, torch.tensor(fitting))
    # What is shown is the prompt as it was written, and the text from there on.
    whole = tokenizer.decode([*before[1:], *written.ids]).rstrip(generation.BROKEN)
    assert prompt + written.text == whole
    assert pieces[0] == prompt
    assert "".join(pieces).rstrip(generation.BROKEN) == whole
    assert generation.continue_text(model, tokenizer, prompt, how, 3) == written


def test_a_text_stops_at_white_space_that_comes_after_that_of_the_prompt(tiny_base, monkeypatch):
    model, tokenizer = models.load(tiny_base), tokens.Tokenizer(tiny_base)
    monkeypatch.setattr(model, "generate", writes(tokenizer.encode(" смотрел на снег")))
    pieces = []
    written = generation.continue_text(model, tokenizer, "Кот ", generation.Sampling(60, stop=(" ",)), 0, pieces.append)
    assert (written.text, "".join(pieces)) == ("смотрел", "Кот смотрел")


def test_white_space_that_is_no_token_stays_in_the_prompt(tiny_base):
    tokenizer = tokens.Tokenizer(tiny_base)
    for prompt in ("Кот\u2028", "Кот"):
        ids, last = tokens.prompt_ids(tokenizer, prompt, 64)
        assert (tokenizer.decode(ids[1:]), last) == (prompt, "")


def test_white_space_at_the_end_of_prompts_is_said(project):
    project.path("blank.txt").write_text("Кот\nСнег \n", encoding="utf-8")
    result = project.run(
        "python", "generate.py", "--prompts", "blank.txt", "--output", "-", "--tokens", "4", "--seed", "1"
    )
    assert "white space at the end of a prompt is written by the model" in result.stderr
    assert [json.loads(line)["prompt"] for line in result.stdout.splitlines()] == ["Кот", "Снег "]
    assert "white space" not in project.run("python", "generate.py", "Кот", "--tokens", "4", "--seed", "1").stderr


def test_prompts_come_from_a_pipe_too(project):
    output = project.ok("python", "generate.py", "--tokens", "5", "--seed", "1", stdin="Кот\nСнег\n")
    assert output.startswith("Кот")
    assert "\nСнег" in output


def test_on_a_terminal_it_asks_until_an_empty_line(project):
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "generate.py", "--tokens", "5", "--seed", "1"],
        cwd=project.folder,
        env=environment(TERM="dumb"),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(terminal)
    os.write(controller, "Кот\n\n".encode())
    output, error = process.communicate(timeout=120)
    os.close(controller)
    assert process.returncode == 0, error
    assert "an empty line ends" in output.decode()
    assert "Кот" in output.decode()


def test_no_text_steers_the_terminal(project):
    """What comes into a file is as it is; on a terminal the same text cannot set its title."""
    command = [sys.executable, "generate.py", "\x1b]0;PWNED\x07Кот\nи", "--tokens", "5", "--seed", "1"]
    controller, terminal = pty.openpty()
    subprocess.run(command, cwd=project.folder, env=environment(TERM="dumb"), stdout=terminal, check=True, timeout=120)
    os.close(terminal)
    shown = os.read(controller, 10_000).decode()
    os.close(controller)
    assert shown.startswith("\\x1b]0;PWNED\\x07Кот\r\nи")
    assert project.ok("python", *command[1:]).startswith("\x1b]0;PWNED\x07Кот\nи")
    error = project.fails("python", "generate.py", "--prompts", "\x1b[2J\u202e\n.txt")
    assert error == "error: \\x1b[2J\\u202e\\n.txt cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tokens", "0", "x"], "0 is below 1"),
        (["--temperature", "-1", "x"], "-1 is below 0"),
        (["--temperature", "1e-40", "x"], "1e-40 is neither 0 nor 0.001 or above"),
        (["--temperature", "inf", "x"], "inf is above 100"),
        (["--repetition-penalty", "inf", "x"], "inf is above 100"),
        (["--seed", "99999999999999999999", "x"], "is above 4294967295"),
        (["--top-p", "1.5", "x"], "1.5 is not above 0 and at most 1"),
        (["--stop", "", "x"], "an empty text would end everything at once"),
        (["--base", "--compare", "x"], "not allowed with argument --base"),
        (["--prompts", "x.txt", "x"], "not together with a prompt"),
        (["--output", "", "x"], "the name of a file is empty"),
        (["\udccf"], "the prompt is not UTF-8: set the terminal's encoding to UTF-8"),
    ],
)
def test_a_mistake_is_one_clear_line(project, arguments, expected):
    assert expected in project.fails("python", "generate.py", *arguments).splitlines()[-1]


def test_before_the_first_run_it_says_what_to_do(tmp_path):
    project = copy_project(tmp_path / "project", OMP_NUM_THREADS="1")
    assert "model/finetuned holds no model yet: run dvc repro" in project.fails("python", "generate.py", "Кот")


def test_of_a_prompt_longer_than_the_context_the_end_is_continued(project):
    """As if only that had been given, and so that there is room for what is to be written."""
    numbers = [f"{number}, " for number in range(90)]
    long = "".join(numbers) + "и"
    result = project.run("python", "generate.py", long, "--tokens", "9", "--seed", "3")
    unseen, last = re.search(r"its first (\d+) characters are left out, up to …(.+)\n", result.stderr).groups()
    assert "does not fit into the 64 tokens that the model sees" in result.stderr
    assert long[: int(unseen)].endswith(last)
    tail = long[int(unseen) :]
    sizes = [
        len(tokens.Tokenizer(project.path("model/base")).encode(long[start:]))
        for start in (int(unseen), int(unseen) - 1)
    ]
    assert sizes[0] + 1 + 9 <= 64 < sizes[1] + 1 + 9
    alone = project.run("python", "generate.py", tail, "--tokens", "9", "--seed", "3")
    assert alone.stderr == ""
    assert result.stdout == long[: int(unseen)] + alone.stdout
    lines = project.ok(
        *("python", "generate.py", "--output", "-", "--tokens", "9", "--seed", "3", "--stop", "\n"),
        stdin=f"Кот\n{long}",
    )
    found = [json.loads(line) for line in lines.splitlines()]
    assert [one["prompt"] for one in found] == ["Кот", long]
    assert tail + found[1]["text"] == alone.stdout.rstrip("…\n")
    many = project.run("python", "generate.py", "--prompts", "-", "--tokens", "200", stdin=f"Кот\n\n{long}")
    assert "standard input, line 3: the prompt does not fit" in many.stderr
    assert many.stdout.count(long) == 1


def test_after_a_run_that_was_broken_off_it_says_how_the_model_before_comes_back(project):
    folder, aside = project.path("model/finetuned"), project.path("model/aside")
    folder.rename(aside)
    try:
        hashed = "0123456789abcdef.dir"
        outs = [{"path": "model/finetuned", "hash": "md5", "md5": hashed}]
        project.path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"train": {"outs": outs}}}))
        assert "holds no model yet: run dvc repro" in project.fails("python", "generate.py", "Кот")
        cached = project.path(f".dvc/cache/files/md5/{hashed[:2]}/{hashed[2:]}")
        cached.parent.mkdir(parents=True)
        cached.write_text("[]")
        error = project.fails("python", "generate.py", "Кот")
        assert error.endswith(
            "model/finetuned is not there: a run was broken off. dvc repro makes it, and dvc checkout model/finetuned "
            "brings back that of the run before\n"
        )
    finally:
        aside.rename(folder)


def test_a_prompt_that_fills_the_context_is_refused(tiny_base):
    with pytest.raises(UserError, match="the model sees 62 at most"):
        generation.continue_text(
            models.load(tiny_base), tokens.Tokenizer(tiny_base), TEXTS[0] * 9, generation.Sampling(5), 0
        )


def test_a_number_may_have_a_decimal_comma(project):
    command = ("python", "generate.py", "Кот", "--seed", "1", "--tokens", "9", "--temperature")
    assert project.ok(*command, "1,5") == project.ok(*command, "1.5") != project.ok(*command, "0")
    assert "invalid int value: '1,5'" in project.fails("python", "generate.py", "Кот", "--tokens", "1,5")

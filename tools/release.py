"""Put the tuned model and its card together in one folder, as the Hugging Face Hub wants it.

    python -m tools.release build/my-gpt2 --name user/my-gpt2
    hf upload user/my-gpt2 build/my-gpt2

The folder is an ordinary Hugging Face model: `from_pretrained`, `pipeline`, vLLM and converters read it as it is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from stages.lib.common import cli, files
from stages.lib.common.translation import Parser

MODEL, CARD = Path("model/finetuned"), Path("model/MODEL_CARD.md")


def main() -> None:
    """Write the folder."""
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, help="the folder to make; it must not exist yet, or be empty")
    parser.add_argument("--name", help="what the model will be called on the Hub, such as user/my-gpt2")
    args = parser.parse_args()
    files.need(MODEL, CARD)
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise cli.UserError(f"{args.folder} is there already: name a folder that is not, or remove it")
    refuse_what_is_out_of_date()
    with files.new_folder(args.folder) as folder:
        # Not links into DVC's cache, and not read-only: this folder is the user's.
        shutil.copytree(MODEL, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        files.write_text(folder / "README.md", card(args.name))
    cli.say(f"{args.folder} holds the model and its card. To share it:")
    cli.say("  " + cli.command(f"hf upload {args.name or 'USER/NAME'} {shlex.quote(str(args.folder))}"))


def card(name: str | None) -> str:
    """The model card, in whose example the model is called as it is on the Hub."""
    text = CARD.read_text(encoding="utf-8")
    return text.replace(f'"{MODEL}"', f'"{name}"') if name else text


def refuse_what_is_out_of_date() -> None:
    """Raise UserError where model or card are not what the pipeline would make now."""
    # Through this Python, as the virtual environment need not be activated.
    command = [sys.executable, "-m", "dvc", "status", "--json", "report"]
    status = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"DVC_NO_ANALYTICS": "1"})
    if status.returncode != 0:
        raise cli.UserError(f"dvc status failed: {status.stderr.strip().splitlines()[-1]}")
    if status.stdout.strip() != "{}":
        raise cli.UserError(
            f"model and card are not those of the present settings and corpus: run {cli.command('dvc repro')} first"
        )


if __name__ == "__main__":
    cli.run(main)

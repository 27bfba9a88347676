"""Write the tuned model in the form that other programs read.

    python -m tools.export gguf                 for llama.cpp, Ollama and LM Studio
    python -m tools.export gguf --type q8_0     half as large
    python -m tools.export onnx                 for ONNX Runtime

The packages for it stand in tools/export_requirements.txt. docs/using.md says how to go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stages.lib.common import cli
from stages.lib.common.translation import Parser, folder
from tools.export import to_gguf, to_onnx

MODEL, OUTPUT = Path("model/finetuned"), Path("build/export")


def main() -> None:
    """Write the files."""
    parser = arguments()
    args = parser.parse_args()
    if args.form == "gguf":
        to_gguf.export(args.model, args.output, args.type or "f16")
    elif args.type:
        parser.error("argument --type: onnx is in float32 always")
    else:
        to_onnx.export(args.model, args.output)


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = Parser(__doc__)
    parser.add_argument("form", choices=("gguf", "onnx"), help="what to write")
    parser.add_argument("--type", choices=to_gguf.TYPES, help="of the weights of gguf; default: f16")
    parser.add_argument("--model", type=folder, default=MODEL, help=f"the model's folder; default: {MODEL}")
    parser.add_argument("--output", type=folder, default=OUTPUT, help=f"the folder to write to; default: {OUTPUT}")
    return parser


if __name__ == "__main__":
    cli.run(main)

"""Fail when a test was skipped that .ci/allowed_skips.txt does not name: a skipped test proves nothing.

python .ci/no_unlisted_skips.py report.xml     (as pytest --junitxml writes it)
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ALLOWED = Path(__file__).with_name("allowed_skips.txt")


def main() -> None:
    """Exit with 1 and name the tests, if there are any."""
    lines = ALLOWED.read_text(encoding="utf-8").splitlines()
    allowed = {line for line in lines if line and not line.startswith("#")}
    cases = ElementTree.parse(sys.argv[1]).iter("testcase")
    skipped = {f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("skipped") is not None}
    if unlisted := sorted(skipped - allowed):
        sys.exit("skipped, but not named in .ci/allowed_skips.txt:\n" + "\n".join(unlisted))


if __name__ == "__main__":
    main()

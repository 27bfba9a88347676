"""Fail when a pinned version has a known vulnerability that .ci/allowed_vulnerabilities.txt does not name.

python .ci/audit.py PIP_AUDIT [OSV_URL]     PIP_AUDIT: the command; OSV_URL: another database than api.osv.dev

Where the database cannot be reached that is said, and nothing else is claimed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent
# Each by itself: what the page takes is not always what the pipeline does.
REQUIREMENTS = sorted(
    path for folder in ("", "tests", "bench", "tools") for path in (HOME / folder).glob("*requirements.txt")
)
ALLOWED = Path(__file__).with_name("allowed_vulnerabilities.txt")
DATABASE = "https://api.osv.dev/v1/query"
# How pip-audit and what it is built on name a connection that failed, and an answer that is none.
UNREACHABLE = re.compile(r"Connection|Connect|Timeout|Proxy|SSLError|Max retries|HTTP error|HTTPError", re.IGNORECASE)


def main() -> None:
    """Exit with 1 and name the vulnerabilities, if there are any."""
    command, *url = sys.argv[1:]
    found = look_up(command, *url)
    if found is None:
        return
    allowed = read_allowed()
    seen = {name for *_, names in found for name in names}
    for name in sorted(allowed - seen):
        print(f".ci/allowed_vulnerabilities.txt names {name}, which no pinned version has any more: take it out")
    if bad := [line for line, names in found if not names & allowed]:
        sys.exit("known vulnerabilities, not named in .ci/allowed_vulnerabilities.txt:\n" + "\n".join(bad))
    print(f"No known vulnerability but {len(found)} allowed ones." if found else "No known vulnerability.")


def look_up(command: str, url: str = DATABASE) -> list[tuple[str, set[str]]] | None:
    """Each vulnerability of a pinned version: a line about it, and all its names. None when it cannot be looked up."""
    found: dict[str, set[str]] = {}
    for requirements in REQUIREMENTS:
        described = _ask(command, requirements, url)
        if described is None:
            return None
        found |= _vulnerabilities(described["dependencies"])
    return list(found.items())


def _ask(command: str, requirements: Path, url: str) -> dict[str, Any] | None:
    """What pip-audit finds for the versions in a file; None when it cannot be looked up, which is said."""
    # The versions as they are pinned, without asking an index what else they might need.
    how = ["--no-deps", "--disable-pip", "--vulnerability-service", "osv", "--osv-url", url]
    shown = ["--format", "json", "--desc", "off", "--aliases", "on", "--progress-spinner", "off"]
    asked = [command, "--requirement", str(requirements), *how, *shown]
    done = subprocess.run(asked, cwd=HOME, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        if not UNREACHABLE.search(reason):
            sys.exit(f"{command} failed: {reason}")
        print(f"NOT LOOKED UP: whether the pinned versions have known vulnerabilities: {url} gave no answer: {reason}")
        return None


def _vulnerabilities(dependencies: list[dict[str, Any]]) -> Iterator[tuple[str, set[str]]]:
    for one in dependencies:
        if reason := one.get("skip_reason"):
            print(f"NOT LOOKED UP: {one['name']}: {reason}")
        for bad in one.get("vulns", []):
            names = [bad["id"], *bad["aliases"]]
            mended = ", ".join(bad["fix_versions"]) or "no version"
            yield f"{one['name']} {one['version']}: {' = '.join(names)}, mended in {mended}", set(names)


def read_allowed() -> set[str]:
    """The names in the list. Exits with 1 when one stands there without a reason above it."""
    allowed: set[str] = set()
    before = ""
    # The comment in the first line is of the whole file, and no one's reason.
    for line in ALLOWED.read_text(encoding="utf-8").splitlines()[1:]:
        if line and not line.startswith("#"):
            if not before.startswith("#"):
                sys.exit(f".ci/allowed_vulnerabilities.txt names {line} without a reason in the line above")
            allowed.add(line)
        before = line
    return allowed


if __name__ == "__main__":
    main()

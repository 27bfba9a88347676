"""The house: which room may import from which, how large its parts are, and where each of them is tested."""

import ast
import re

import pytest
from conftest import HOME
from imports import imports_of

LIB = HOME / "stages/lib"
# Each room with those it may import from. Those side by side know nothing of each other.
BELOW = {
    "training": {"tracking", "model", "processes", "rows", "common"},
    "tracking": {"common"},
    "evaluation": {"model", "rows", "common"},
    "page": {"corpus", "common"},
    "hub": {"bases", "common"},
    "bases": {"model", "rows", "common"},
    "model": {"processes", "rows", "common"},
    "processes": {"common"},
    "corpus": {"overlap", "common"},
    "overlap": {"common"},
    "rows": {"common"},
    "common": set(),
}
MOST_MODULES, MOST_LINES, USUAL_FUNCTION = 9, 250, 20
# Modules without a test file of their own name, and where what they promise is held.
TESTED_ELSEWHERE = {
    "common/versioned": "pipeline/test_check.py",
    "bases/lossless": "bases/test_layouts.py",
    "bases/sources": "bases/test_layouts.py",
    "bases/vocabularies": "bases/test_layouts.py",
    "bases/weights": "bases/test_layouts.py",
    "common/plain_yaml": "common/test_params.py",
    "corpus/formats": "pipeline/test_validate.py",
    "corpus/places": "corpus/test_lines.py",
    "corpus/records": "corpus/test_documents.py",
    "corpus/tally": "pipeline/test_validate.py",
    "evaluation/comparison": "evaluation/test_samples.py",
    "evaluation/outcome": "pipeline/test_pipeline.py",
    "hub/download": "hub/test_snapshot.py",
    "hub/errors": "hub/test_snapshot.py",
    "hub/patience": "hub/test_snapshot.py",
    "model/generation": "test_generate.py",
    "model/loss": "training/test_trainer.py",
    "model/processor": "model/test_devices.py",
    "model/trainable": "training/test_knobs.py",
    "processes/followers": "processes/test_launch.py",
    "processes/group": "processes/test_gradients.py",
    "rows/batches": "model/test_models.py",
    "training/course": "training/test_trainer.py",
    "training/environment": "training/test_knobs.py",
    "tracking/choice": "tracking/test_trackers.py",
    "tracking/journal": "tracking/test_delivery.py",
    "processes/failpoints": "training/test_interruption.py",
    "processes/interruption": "training/test_interruption.py",
    "training/record": "training/test_trainer.py",
}


def modules():
    return sorted(path for path in LIB.rglob("*.py") if path.name != "__init__.py")


def test_every_room_is_named_here_and_in_the_page_about_the_house():
    rooms = {path.name for path in LIB.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(BELOW)
    page = (HOME / "docs/architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE) == list(BELOW)
    for path in modules():
        assert f"`{path.stem}`" in page, f"docs/architecture.md does not name {path.relative_to(HOME)}"


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_only_from_those_below_it(room):
    for path in LIB.glob(f"{room}/*.py"):
        for name in imports_of(path):
            if match := re.match(r"stages\.lib\.(\w+)", name):
                assert match[1] in BELOW[room] | {room}, f"{path.relative_to(HOME)} imports {name}"
            elif name != "stages":  # the package itself, which imports nothing of ours
                assert not name.startswith(("stages", "tools", "tests", "bench", "generate")), f"{path} imports {name}"


def test_nothing_imports_in_a_circle():
    """Python would bear some of them, until an import moves."""
    graph = {}
    for path in modules():
        name = ".".join(path.relative_to(HOME).with_suffix("").parts)
        graph[name] = {other for other in imports_of(path) if other.startswith("stages.lib.")}

    def visit(name, trail):
        assert name not in trail, " > ".join([*trail, name])
        for other in graph.get(name, ()):
            visit(other, [*trail, name])

    for name in graph:
        visit(name, [])


def test_rooms_and_files_and_functions_stay_small():
    for room in BELOW:
        assert len(list(LIB.glob(f"{room}/[!_]*.py"))) <= MOST_MODULES, room
    lengths = []
    for path in HOME.glob("stages/**/*.py"):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= MOST_LINES, path
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        lengths += [
            node.end_lineno - node.lineno + 1 for node in ast.walk(ast.parse(source)) if isinstance(node, functions)
        ]
    assert sorted(lengths)[len(lengths) * 9 // 10] <= USUAL_FUNCTION


def test_tests_stand_in_rooms_of_the_same_names():
    for path in modules():
        room, name = path.parent.name, path.stem
        where = TESTED_ELSEWHERE.get(f"{room}/{name}", f"{room}/test_{name}.py")
        assert (HOME / "tests" / where).exists(), f"no test of {room}/{name}"
        if f"{room}/{name}" in TESTED_ELSEWHERE:
            assert not (HOME / f"tests/{room}/test_{name}.py").exists(), "it has a test of its own by now"
    assert TESTED_ELSEWHERE.keys() <= {f"{path.parent.name}/{path.stem}" for path in modules()}

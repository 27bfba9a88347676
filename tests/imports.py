"""Which modules of ours import which, found in the source."""

import ast
from pathlib import Path

from conftest import HOME


def imports_of(path: Path) -> list[str]:
    """Every name that a file imports from, or may import: of `from a import b` both `a` and `a.b`, as dotted names."""
    names: list[str] = []
    for node in ast.walk(ast.parse((HOME / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def imported_modules(path: Path) -> set[Path]:
    """Every module of ours that the file imports, directly or through another, and the file itself.

    A package around them counts where there is more in it than what it says of itself.
    """
    found: set[Path] = set()
    queue = [path]
    while queue:
        path = queue.pop()
        if path in found or (path.name == "__init__.py" and is_only_described(path)):
            continue
        found.add(path)
        for name in imports_of(path):
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                inner = Path(*parts[:depth])
                queue += [one for one in (inner.with_suffix(".py"), inner / "__init__.py") if (HOME / one).exists()]
    return found


def is_only_described(path: Path) -> bool:
    """Whether a file holds nothing but its docstring."""
    tree = ast.parse((HOME / path).read_text(encoding="utf-8"))
    return len(tree.body) == (ast.get_docstring(tree) is not None)


def whole_rooms(modules: set[Path]) -> set[Path]:
    """The same with the folder of a room in the place of its modules, wherever they are all there."""
    rooms = {path.parent for path in modules if path.parent.parent == Path("stages/lib")}
    whole = {room for room in rooms if {one.relative_to(HOME) for one in (HOME / room).glob("[!_]*.py")} <= modules}
    return whole | {path for path in modules if path.parent not in whole}

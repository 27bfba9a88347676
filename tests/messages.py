"""What the project's commands say, found in the source: each message with `{}` for what differs from case to case."""

import ast
import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from conftest import HOME

ERRORS = {"UserError", "BadLine", "Refused", "Stopped", "Unreadable", "NotTheHub"}
# Whose arguments are said, or become a part of what is.
_SAYING = ERRORS | {"say", "translated", "_fail", "check", "append", "counted", "Silent", "Left", "Note", "Kind"}
_SAYING |= {"ValueError", "ArgumentTypeError", "error", "progress"}
# Whose results others say, and tables and names that hold what is said.
_MAKING = {"explain", "refusal", "full", "lines", "examples", "advice", "table", "mend", "push_runs"}
_HOLDING = {"RESTORE", "UNDO", "WHITE_SPACE", "SEPARATORS", "choices", "reason", "fault", "said"}
_HOLDING |= {"_REFUSALS", "_MAGIC", "_NO_FILES", "_OTHERS", "_GONE", "_TOLD", "_SCRIPTS", "_OF_ARGPARSE", "TITLES"}
# No command of the users, or one with a catalogue of its own; and ValueErrors that only a bug of ours would show.
_ELSEWHERE = (
    *("tools/pretrain.py", "tools/summary.py", "stages/report.py", "stages/lib/page/"),
    *("stages/lib/model/scoring.py", "stages/lib/evaluation/comparison.py", "stages/lib/processes/gradients.py"),
)
# Whose --help is in the user's language: what writers use. The other tools are for those who read English help anyway.
DESCRIBED = {"generate.py", "tools/collect/__main__.py", "tools/page/__main__.py"}
HOLE = "{}"
_SAME = {"printable", "str", "harmless", "strip", "rstrip"}  # functions that leave the words as they are


class Module:
    """A source file, its functions, and what may be in its names."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(HOME).as_posix()
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self._function: dict[ast.AST, ast.FunctionDef | None] = {}
        self._mark(self.tree, None)
        self.functions = [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)]

    def _mark(self, node: ast.AST, function: ast.FunctionDef | None) -> None:
        for child in ast.iter_child_nodes(node):
            self._function[child] = function
            self._mark(child, child if isinstance(child, ast.FunctionDef) else function)

    def function(self, node: ast.AST) -> ast.FunctionDef | None:
        """The function that a node stands in."""
        return self._function.get(node)

    def values(self, name: ast.Name) -> list[tuple[ast.AST, ast.expr]]:
        """What is assigned to a name in its own function, or else in one around it or in the module."""
        function = self._function.get(name)
        while True:
            nodes = [node for node in ast.walk(function or self.tree) if function or not self._function.get(node)]
            if found := [(node, value) for node in nodes for value in _assigned(node, name.id)]:
                return found
            if function is None:
                return []
            function = self._function.get(function)

    def calls(self, names: set[str]) -> Iterator[tuple[str, ast.Call]]:
        """The calls of functions or methods of these names."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and _called(node) in names:
                yield _called(node), node


def _makes_a_list(node: ast.expr) -> bool:
    first = node.left if isinstance(node, ast.BinOp) else node.body if isinstance(node, ast.IfExp) else node
    return isinstance(first, ast.List | ast.ListComp)


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _assigned(node: ast.AST, name: str) -> Iterator[ast.expr]:
    if isinstance(node, ast.For | ast.comprehension):
        if getattr(node.target, "id", "") == name and isinstance(node.iter, ast.Tuple):
            yield from node.iter.elts
        return
    if not isinstance(node, ast.Assign | ast.AugAssign | ast.NamedExpr) or node.value is None:
        return
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        values = node.value.elts if isinstance(node.value, ast.Tuple) and len(parts) > 1 else [node.value] * len(parts)
        for part, value in zip(parts, values, strict=True):
            if isinstance(part, ast.Name) and part.id == name:
                yield value


@cache
def modules() -> tuple[Module, ...]:
    """The source files whose messages users read."""
    found = [HOME / "generate.py", *(HOME / "stages").rglob("*.py"), *(HOME / "tools").rglob("*.py")]
    return tuple(Module(path) for path in sorted(found) if not path.relative_to(HOME).as_posix().startswith(_ELSEWHERE))


class _Templates:
    """Takes in expressions, and keeps what they may say, a line each, with the place of each."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._seen: set[ast.expr] = set()
        self._names: list[tuple[ast.AST | None, str]] = []  # that are being followed

    def add(self, module: Module, node: ast.expr, prefix: str = "") -> None:
        """Take in what an expression may say, after a prefix."""
        if node in self._seen:
            return
        self._seen.add(node)
        place = f"{module.name}:{node.lineno}"
        for text in self._texts(module, node):
            for line in re.sub(r"(\{\})+", HOLE, text).split("\n"):
                line = f"{prefix}{line}".removeprefix(f"{HOLE} but must be ").lstrip(" ,.;").rstrip()
                if re.search("[A-Za-z]{2}", line):
                    self.found.setdefault(line, place)

    def add_results(self, module: Module, function: ast.FunctionDef) -> None:
        """Take in what a function may return."""
        for node in ast.walk(function):
            if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) and node.value is not None:
                self.add(module, node.value)

    def _texts(self, module: Module, node: ast.expr) -> list[str]:
        """What an expression may be, each with a hole for what is not known."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                return self._joined(module, parts)
            case ast.FormattedValue(value=value):
                return self._part(module, value)
            case ast.BinOp(op=ast.Add(), left=ast.Subscript() | ast.List() as one, right=other):
                return [*self._texts(module, one), *self._texts(module, other)]
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self._joined(module, [left, right])
            case ast.BinOp(op=ast.Mult(), left=text) if (found := self._texts(module, text)) != [HOLE]:
                return ["", *found]
            case ast.Subscript(value=ast.Dict() as table):
                return self._texts(module, table)
            case ast.IfExp(body=one, orelse=other):
                return [*self._texts(module, one), *self._texts(module, other)]
            case ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Dict(values=parts):
                return [text for part in parts for text in self._texts(module, part)]
            case ast.GeneratorExp(elt=one) | ast.ListComp(elt=one) | ast.Starred(value=one):
                return self._texts(module, one)
            case ast.Name() if (name := (module.function(node), node.id)) not in self._names:
                self._names.append(name)
                found = self._named(module, node)
                self._names.remove(name)
                return found
            case ast.Call():
                return self._result(module, node)
        return [HOLE]

    def _named(self, module: Module, node: ast.Name) -> list[str]:
        """What is in a name: one of what is assigned to it, and what is added to that."""
        found, added = [], [""]
        for statement, value in module.values(node):
            texts = self._texts(module, value)
            if isinstance(statement, ast.AugAssign) and not _makes_a_list(value):
                added += [more + text for more in added for text in texts]
            else:
                found += texts
        return [text + more for text in found or [HOLE] for more in added]

    def _joined(self, module: Module, parts: list[ast.expr]) -> list[str]:
        return ["".join(texts) for texts in itertools.product(*(self._texts(module, part) for part in parts))]

    def _part(self, module: Module, node: ast.expr) -> list[str]:
        """What a part of a message may be: itself, where it is one or may be missing; else a hole, and by itself."""
        texts = list(dict.fromkeys(self._texts(module, node)))
        if len(texts) == 1 or ("" in texts and texts != ["", "s"]):
            return texts
        self.add(module, node)
        return [HOLE]

    def _result(self, module: Module, call: ast.Call) -> list[str]:
        name = _called(call)
        if name in _SAME and (same := call.args or [getattr(call.func, "value", None)])[0]:
            return self._texts(module, same[0])
        if name == "format" and isinstance(call.func.value, ast.Constant):
            return [re.sub(r"\{[^}]*\}", HOLE, call.func.value.value)]
        if name == "join":
            self.add(module, call.args[0])
            return [HOLE]
        for other in modules():
            for function in other.functions:
                if function.name == name:
                    self.add_results(other, function)
        return [HOLE]


@cache
def templates() -> dict[str, str]:
    """Every line that a command may say or put into one, and where it stands."""
    found = _Templates()
    for module in modules():
        for name, call in module.calls(_SAYING):
            # A ValueError of the settings comes after the key it is about.
            prefix = f"{HOLE} " if name == "ValueError" and module.name.endswith("params.py") else ""
            for place, argument in enumerate(call.args):
                if name != "append" or isinstance(argument, ast.JoinedStr | ast.Constant):
                    found.add(
                        module, argument, HOLE if name == "progress" and place == 2 else prefix
                    )  # what is counted
        for function in module.functions:
            if function.name in _MAKING:
                found.add_results(module, function)
        if module.name in DESCRIBED:
            found.add(module, module.tree.body[0].value)
            for _, call in module.calls({"add_argument"}):
                found.add(module, next(one.value for one in call.keywords if one.arg == "help"))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in _HOLDING:
                found.add(module, node.value)
    return found.found

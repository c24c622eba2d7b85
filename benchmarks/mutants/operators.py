"""All small wrong changes that can be made to one line of a Python file or of a YAML file of conf/."""

import ast
import re
from collections.abc import Callable, Iterator

SWAPS: dict[type, str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Pow: "*",
    ast.And: "or",
    ast.Or: "and",
}
NAME = re.compile(r"[a-z][a-z0-9_]{1,30}")
TEXTS = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)  # messages are not mutated
QUIET = {
    "help",
    "frozen",
    "strict",
    "maxsize",
    "stacklevel",
    "metavar",
}  # arguments that change no result of right code
LOGGERS = {"log", "logger", "logging", "print", "warn", "write_line", "echo"}

Change = tuple[int, str, str, str]  # line (from 1), that line as it is, that line changed, kind of change


def python_changes(source: str) -> Iterator[Change]:
    """Every change of one line of a module: operators, constants, arguments, entries, conditions, statements."""
    lines = source.splitlines()
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if getattr(node, "lineno", 0) and node.lineno == node.end_lineno and not _left_out(node, parents):  # type: ignore[attr-defined]
            line = lines[node.lineno - 1]  # type: ignore[attr-defined]
            for old, new, kind in _node_changes(node, parents, line):
                changed = _splice(line, *old, new)
                if changed != line and _parses(lines, node.lineno, changed):  # type: ignore[attr-defined]
                    yield node.lineno, line, changed, kind  # type: ignore[attr-defined]


def yaml_changes(source: str) -> Iterator[Change]:
    """Every change of one value of a configuration: numbers, truth values, null, names."""
    for number, line in enumerate(source.splitlines(), 1):
        found = re.match(r"( *(?:- )?[\w/@.]+: )([^#{\[$]+?)( *(?:#.*)?)$", line)
        if found and not re.match(r" *(source|licence|package|name|_target_|card)\b", line):
            start, value, end = found.groups()
            yield number, line, start + _other_value(value.strip()) + end, "value"


def _other_value(value: str) -> str:
    """A value of the same type that differs."""
    swaps = {"true": "false", "false": "true", "null": "1"}
    if value in swaps:
        return swaps[value]
    try:
        return str(int(value) + 1)
    except ValueError:
        pass
    try:
        return str(float(value) * 1.1 or 1.0)
    except ValueError:
        return f"{value}x"


def _left_out(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a node is text for people, an annotation, or runs in no test (blocks for type checkers)."""
    child: ast.AST | None = node
    while child is not None:
        parent = parents.get(child)
        if isinstance(child, TEXTS) or (isinstance(child, ast.keyword) and child.arg in QUIET):
            return True
        if isinstance(parent, ast.AnnAssign | ast.arg) and child is parent.annotation:
            return True
        if isinstance(parent, ast.FunctionDef) and child is parent.returns:
            return True
        call = child.value if isinstance(child, ast.Expr) else child
        if isinstance(call, ast.Call) and set(ast.unparse(call.func).split(".")) & LOGGERS:
            return True
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            return True
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            return True
        if isinstance(child, ast.Assign) and "__all__" in ast.unparse(child.targets[0]):
            return True
        child = parent
    return False


Spot = tuple[int, int]


def _node_changes(node: ast.AST, parents: dict[ast.AST, ast.AST], line: str) -> Iterator[tuple[Spot, str, str]]:
    for kind, change in KINDS.items():
        for spot, new in change(node, parents, line):
            yield spot, new, kind


def _operator(node: ast.AST, _: dict[ast.AST, ast.AST], line: str) -> Iterator[tuple[Spot, str]]:
    if isinstance(node, ast.Compare):
        operands, operators = [node.left, *node.comparators], node.ops
    elif isinstance(node, ast.BinOp):
        operands, operators = [node.left, node.right], [node.op]
    elif isinstance(node, ast.BoolOp):
        operands, operators = node.values, [node.op] * (len(node.values) - 1)
    else:
        return
    for left, operator, right in zip(operands, operators, operands[1:], strict=False):
        if new := SWAPS.get(type(operator)):
            spot = _end(left), _start(right)
            between = line.encode()[slice(*spot)].decode()
            symbol = re.search(r"not in|is not|\*\*|//|[<>=!]=|[-+*/<>]|\b(in|is|and|or)\b", between)
            if symbol:
                yield spot, between[: symbol.start()] + new + between[symbol.end() :]


def _negation(node: ast.AST, *_: object) -> Iterator[tuple[Spot, str]]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield (_start(node), _start(node.operand)), ""


def _constant(node: ast.AST, parents: dict[ast.AST, ast.AST], _: str) -> Iterator[tuple[Spot, str]]:
    if not isinstance(node, ast.Constant):
        return
    value = node.value
    if isinstance(value, bool):
        yield _spot(node), str(not value)
    elif isinstance(value, int):
        yield _spot(node), str(value + 1)
    elif isinstance(value, float):
        yield _spot(node), repr(value * 1.1 or 1.0)
    elif isinstance(value, str) and NAME.fullmatch(value):
        parent = parents.get(node)
        if isinstance(parent, ast.Call | ast.Subscript | ast.Compare | ast.keyword | ast.Tuple | ast.List):
            yield _spot(node), repr(value + "x")


def _argument(node: ast.AST, _: dict[ast.AST, ast.AST], line: str) -> Iterator[tuple[Spot, str]]:
    """A call without one of its keyword arguments."""
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in QUIET:
                yield _with_comma(keyword, line), ""


def _entry(node: ast.AST, _: dict[ast.AST, ast.AST], line: str) -> Iterator[tuple[Spot, str]]:
    """A dictionary or list without one of its entries."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None:
                yield _with_comma_between(_start(key), _end(value), line), ""
    elif isinstance(node, ast.List | ast.Set):
        for item in node.elts:
            yield _with_comma(item, line), ""


def _condition(node: ast.AST, parents: dict[ast.AST, ast.AST], _: str) -> Iterator[tuple[Spot, str]]:
    parent = parents.get(node)
    if isinstance(parent, ast.If | ast.IfExp | ast.While | ast.comprehension) and (
        node is getattr(parent, "test", None) or node in getattr(parent, "ifs", [])
    ):
        yield _spot(node), f"(not ({ast.unparse(node)}))"


def _statement(node: ast.AST, *_: object) -> Iterator[tuple[Spot, str]]:
    """A statement left out, and a value that is not returned."""
    if isinstance(node, ast.AugAssign | ast.Delete | ast.Continue | ast.Break) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield _spot(node), "pass"
    if isinstance(node, ast.Return) and node.value is not None:
        yield _spot(node.value), "None"


KINDS: dict[str, Callable[..., Iterator[tuple[Spot, str]]]] = {
    "operator": _operator,
    "negation": _negation,
    "constant": _constant,
    "argument": _argument,
    "entry": _entry,
    "condition": _condition,
    "statement": _statement,
}


def _start(node: ast.AST) -> int:
    return node.col_offset  # type: ignore[attr-defined]


def _end(node: ast.AST) -> int:
    return node.end_col_offset  # type: ignore[attr-defined]


def _spot(node: ast.AST) -> Spot:
    return _start(node), _end(node)


def _with_comma(node: ast.AST, line: str) -> Spot:
    return _with_comma_between(_start(node), _end(node), line)


def _with_comma_between(start: int, end: int, line: str) -> Spot:
    """The place of an argument or entry with the comma behind it, else with the one before it."""
    text = line.encode()
    if after := re.match(rb"\s*,\s*", text[end:]):
        return start, end + after.end()
    before = re.search(rb"\s*,\s*$", text[:start])
    return (before.start() if before else start), end


def _splice(line: str, start: int, end: int, new: str) -> str:
    """The line with new text in a place that is given in bytes of UTF-8, as ast does."""
    text = line.encode()
    return (text[:start] + new.encode() + text[end:]).decode()


def _parses(lines: list[str], number: int, changed: str) -> bool:
    try:
        ast.parse("\n".join([*lines[: number - 1], changed, *lines[number:]]))
    except SyntaxError:
        return False
    return True

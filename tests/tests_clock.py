"""Finds assertions that judge a time measured where they run.

A file is read from the top as Python would run it, and what comes from a clock is followed through names, containers and
functions. An assertion that compares it in size is reported. It may say that a duration is above 0, and how many there are.
"""

import ast

CLOCKS = {"perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time", "process_time_ns", "thread_time", "timeit",
          "default_timer", "time.time", "time.time_ns"}
NO_TIMES = {"len", "set", "list", "isinstance", "type", "keys", "enumerate"}  # of times: their number, their names
ADDS = {"append", "extend", "add", "update", "insert", "setdefault"}


def dotted(node) -> str:
    "The dotted name of an expression, or an empty string."
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".strip(".")
    return node.id if isinstance(node, ast.Name) else ""


class Follower:
    "Reads statements in order and keeps, by scope, the names that hold times; `functions` return them."

    def __init__(self, clocks=()):
        self.scopes, self.functions, self.judged, self.returns = [set()], CLOCKS | set(clocks), [], False

    def is_clock(self, call) -> bool:
        name = dotted(call.func)
        return name in self.functions or name.rpartition(".")[2] in self.functions

    def holds(self, node) -> bool:
        "Whether the value of an expression comes from a clock."
        if isinstance(node, ast.Name):
            return any(node.id in scope for scope in self.scopes)
        if isinstance(node, ast.Call):
            inside = [*node.args, *(k.value for k in node.keywords), *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
            return self.is_clock(node) or dotted(node.func).rpartition(".")[2] not in NO_TIMES and any(map(self.holds, inside))
        if isinstance(node, ast.Subscript):
            return self.holds(node.value)
        if isinstance(node, ast.Compare) and all(isinstance(op, ast.In | ast.NotIn | ast.Is | ast.IsNot) for op in node.ops):
            return False
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            return self.inside(node, lambda: self.holds(node.value if isinstance(node, ast.DictComp) else node.elt))
        return not isinstance(node, ast.Lambda) and any(map(self.holds, ast.iter_child_nodes(node)))

    def inside(self, comprehension, ask):
        "The answer to a question asked where the variables of a comprehension are known."
        self.scopes.append(set())
        for one in comprehension.generators:
            self.take_from(one.target, one.iter)
        answer = ask()
        self.scopes.pop()
        return answer

    def take_from(self, target, source):
        "Bind the variables of a loop over `source`."
        called = dotted(source.func).rpartition(".")[2] if isinstance(source, ast.Call) else ""
        if isinstance(source, ast.Call) and isinstance(source.func, ast.Attribute) and called == "items":
            parts = [None, source.func.value]
        else:
            parts = {"enumerate": lambda: [None, source.args[0]], "zip": lambda: source.args}.get(called, list)()
        if isinstance(target, ast.Tuple) and len(parts) == len(target.elts):
            for one, part in zip(target.elts, parts):
                self.bind(one, part is not None and self.holds(part))
        else:
            self.bind(target, self.holds(source))

    def bind(self, target, timed: bool, value=None):
        "A target takes a value that is a time, or is none."
        if isinstance(target, ast.Tuple | ast.List):
            values = value.elts if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts) else None
            for i, one in enumerate(target.elts):
                self.bind(one, self.holds(values[i]) if values else timed, values and values[i])
        elif isinstance(target, ast.Name):
            (self.scopes[-1].add if timed else self.scopes[-1].discard)(target.id)
        elif timed:  # a part of something: then all of it, in every scope that may own it
            while isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
                target = target.value
            for scope in (self.scopes[0], self.scopes[-1]) if isinstance(target, ast.Name) else ():
                scope.add(target.id)

    def run(self, body):
        for node in body:
            self.step(node)

    def step(self, node):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            outer, self.returns = self.returns, False
            self.scopes.append(set())
            self.run(node.body)
            self.scopes.pop()
            if isinstance(node, ast.FunctionDef):
                (self.functions.add if self.returns else self.functions.discard)(node.name)
            self.returns = outer
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self.bind(target, node.value is not None and self.holds(node.value), node.value)
        elif isinstance(node, ast.AugAssign) and self.holds(node.value):
            self.bind(node.target, True)
        elif isinstance(node, ast.Return) and node.value:
            self.returns |= self.holds(node.value)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            if isinstance(call.func, ast.Attribute) and call.func.attr in ADDS and any(map(self.holds, call.args)):
                self.bind(ast.Subscript(call.func.value, ast.Constant(0)), True)
            if dotted(call.func).rpartition(".")[2].startswith("assert_") and any(map(self.holds, call.args)):
                self.judged.append(ast.unparse(node))
        elif isinstance(node, ast.Assert) and self.judges(node.test):
            self.judged.append(ast.unparse(node))
        if isinstance(node, ast.For):
            self.take_from(node.target, node.iter)
        for block in ("body", "orelse", "handlers", "finalbody") if not isinstance(node, ast.FunctionDef | ast.ClassDef) else ():
            for _ in range(2 if isinstance(node, ast.For | ast.While) else 1):
                self.run(part for part in getattr(node, block, []))
        if isinstance(node, ast.ExceptHandler):
            self.run(node.body)

    def judges(self, node) -> bool:
        "Whether an expression compares a time in size with anything but 0."
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            return self.inside(node, lambda: self.judges(node.elt))
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops) and self.holds(node):
            sides = [node.left, *node.comparators]
            return not any(isinstance(side, ast.Constant) and side.value == 0 for side in sides)
        return any(map(self.judges, ast.iter_child_nodes(node)))


def assertions_on_times(source: str, clocks=()) -> list[str]:
    "Return the assertions in Python source that judge a time; `clocks` names further functions that return times."
    follower = Follower(clocks)
    follower.run(ast.parse(source).body)
    return follower.judged

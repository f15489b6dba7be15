"""What a PromQL expression asks for, read from its syntax tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser as promql


@dataclass(frozen=True, slots=True)
class Asked:
    """One selector: a metric's name, the values it is filtered by, all labels it must have."""

    metric: str
    equals: dict[str, str]
    labels: frozenset[str]


def asked_by(expression: str) -> list[Asked]:
    """Every selector of ``expression``. Raises ValueError for what is no PromQL."""
    return list(_walk(promql.parse(expression), frozenset()))


def _walk(node: Any, grouped: frozenset[str]) -> Iterator[Asked]:
    """``grouped``: labels that an aggregation around it keeps."""
    match node:
        case promql.VectorSelector():
            yield _selector(node, grouped)
        case promql.MatrixSelector():
            yield _selector(node.vector_selector, grouped)
        case promql.AggregateExpr():
            yield from _walk(node.expr, grouped | _kept(node.modifier))
        case promql.Call():
            for argument in node.args:
                yield from _walk(argument, grouped)
        case promql.BinaryExpr():
            yield from _walk(node.lhs, grouped)
            yield from _walk(node.rhs, frozenset())
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _walk(node.expr, grouped)


def _kept(modifier: Any) -> frozenset[str]:
    if modifier is None or modifier.type != promql.AggModifierType.By:
        return frozenset()
    return frozenset(modifier.labels)


def _selector(node: Any, grouped: frozenset[str]) -> Asked:
    matchers = node.matchers.matchers
    equals = {m.name: m.value for m in matchers if m.op == promql.MatchOp.Equal}
    return Asked(node.name, equals, grouped | {matcher.name for matcher in matchers})

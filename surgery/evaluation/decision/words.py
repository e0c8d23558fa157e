"""A decision in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from surgery.schemas.decision import AgainstBest, Decision, Needed
from surgery.schemas.jobs.comparison import ArmReport, ComparisonResult


def summary_of(decision: Decision, table: ComparisonResult) -> str:
    """A few sentences: how the arms stand, which one to take, and what would tell more."""
    return " ".join(_sentences(decision, {arm.name: arm for arm in table.arms}, table))


def _sentences(
    decision: Decision, arms: dict[str, ArmReport], table: ComparisonResult
) -> Iterator[str]:
    metric = table.primary_metric
    if decision.best is None:
        yield (
            f"No arm learned: every model predicts the same for all rows, for which {metric} is "
            "not defined. No checkpoint is worth taking; train longer or at other rates."
        )
        return
    yield _standing(decision, arms, metric)
    yield from _twins(table)
    if decision.outcome == "baseline":
        yield "No checkpoint is worth taking; train longer, on more rows or at other rates."
        return
    yield _taking(decision)
    yield from _telling(decision)


def _standing(decision: Decision, arms: dict[str, ArmReport], metric: str) -> str:
    best = str(decision.best)
    value = _value(arms[best])
    worse = [other.arm for other in decision.others if other.told_apart]
    left = decision.not_told_apart
    match decision.outcome:
        case "baseline":
            base = f"{decision.baseline:.4f}" if decision.baseline is not None else "unknown"
            return (
                f"No arm learned: the best, {best}, reaches {metric} {value}, and the same answer "
                f"for every row {base}; the difference may be chance."
            )
        case "ceiling":
            return (
                f"Every arm is at the ceiling: {metric} is {value} for {best} and cannot be above "
                "1, so that these rows cannot show a difference."
            )
        case "one_way":
            return f"Only {best} has a result: {metric} {value}."
        case "winner":
            return f"{best} is better than {_listed(worse)}, beyond chance: {metric} {value}."
        case "shortlist":
            return (
                f"{best} is highest, {metric} {value}, and better than {_listed(worse)} beyond "
                f"chance, but not told apart from {_listed(left)}."
            )
        case _:
            return (
                f"Nothing is decided: {best} is highest, {metric} {value}, but not told apart from "
                f"{_listed(left)}."
            )


def _twins(table: ComparisonResult) -> Iterator[str]:
    for arm in table.arms:
        if arm.same_as is not None:
            yield f"{arm.name} trains the same as {arm.same_as}: one run for both."


def _taking(decision: Decision) -> str:
    cheapest, share = str(decision.cheapest), decision.relative_cost.get("seconds")
    if cheapest == decision.best:
        whose = "it" if not decision.not_told_apart else f"{cheapest}, also the cheapest of these"
        return f"Take {whose}{_checkpoint(decision)}."
    lower = next(each.difference for each in decision.others if each.arm == cheapest)
    by = "" if lower is None else f", {_signed(-lower)} to {decision.best}"
    cost = "" if share is None else f" at {share:.2g} of the seconds"
    return f"Take {cheapest}, the cheapest of these{cost}{by}{_checkpoint(decision)}."


def _checkpoint(decision: Decision) -> str:
    return f": {decision.checkpoint}" if decision.checkpoint else ""


def _telling(decision: Decision) -> Iterator[str]:
    """What would tell the arms apart that matter: the one to take and the best one, if it can."""
    if decision.outcome not in {"undecided", "shortlist"}:
        return
    other = open_question(decision)
    if other is None:
        yield "They are as good as equal: no number of seeds or rows that can be had tells more."
    elif other.needed is None:
        yield (
            "One seed tells nothing of how runs differ from seed to seed: name three or more to "
            "decide."
        )
    else:
        yield f"To tell {decision.best} from {other.arm} would take {_amount(other.needed)}."


def open_question(decision: Decision) -> AgainstBest | None:
    """The arm that is worth telling from the best one: the one to take or, if it is that, another.

    What it takes is unknown after one seed. None where nothing is open, or nothing would tell.
    """
    if decision.outcome not in {"undecided", "shortlist"}:
        return None
    left = [other for other in decision.others if not other.told_apart]
    if any(other.p_value is not None for other in left):
        left = sorted((each for each in left if each.needed is not None), key=_effort)
    of_interest = [other for other in left if other.arm == decision.cheapest]
    return next(iter(of_interest or left), None)


def _effort(other: AgainstBest) -> tuple[bool, int]:
    need = other.needed
    assert need is not None, "only arms with a need are sorted"
    return need.together, need.seeds or need.validation_rows or 0


def _amount(need: Needed) -> str:
    seeds = None if need.seeds is None else f"some {need.seeds} seeds"
    rows = "more validation rows than there are"
    if need.validation_rows is not None:
        rows = f"some {rounded(need.validation_rows):,} validation rows"
    if need.together:
        return f"{seeds} and {rows}"
    if seeds is None:
        return f"{rows}; more seeds alone would not do"
    return seeds if need.validation_rows is None else f"{seeds} or {rows}"


def rounded(count: int) -> int:
    """A count, rounded up to two digits."""
    step = int("1" + "0" * (len(str(count)) - 2)) if count > 99 else 1
    return -(-count // step) * step


def _value(arm: ArmReport) -> str:
    assert arm.metric is not None, "the best arm has a value"
    return f"{arm.metric.mean:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"

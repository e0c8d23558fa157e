"""What a comparison's children mean for it. Only reads; the state machine changes the jobs."""

from app.jobs.comparisons.outcome import (
    children_after,
    has_active_child,
    is_overdue,
    not_chosen_error,
    outcome,
    overdue_error,
    unfinished_children,
)
from app.jobs.comparisons.shared_runs import (
    arm_digest,
    learned_choice,
    run_of_equal_arm,
    settled_arms,
)

__all__ = [
    "arm_digest",
    "children_after",
    "has_active_child",
    "is_overdue",
    "learned_choice",
    "not_chosen_error",
    "outcome",
    "overdue_error",
    "run_of_equal_arm",
    "settled_arms",
    "unfinished_children",
]

"""Whether an installation can work, and what to do where it cannot: the checks of a doctor."""

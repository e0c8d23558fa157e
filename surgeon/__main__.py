"""``python -m surgeon`` runs the `surgeon` command."""

from __future__ import annotations

from surgeon.cli import main

main()

"""The subcommands of `surgeon`, and the options they share."""

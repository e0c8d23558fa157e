"""The subcommands of `surgeon`, and the options that they share."""

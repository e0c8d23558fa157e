"""What the command lines of `surgery` and `surgeon` share: options, and errors in their words."""

"""What goes wrong, made to happen: children that say anything, databases that hang."""

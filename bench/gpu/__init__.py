"""The checks and figures of a GPU machine, and the kit that carries them to one."""

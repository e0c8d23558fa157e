"""The GLUE and SuperGLUE tasks, and the texts that models read of their raw rows."""

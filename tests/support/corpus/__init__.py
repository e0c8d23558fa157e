"""Models of strangers, made here: what each must come to, and a watch on what it touches."""

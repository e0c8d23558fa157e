"""Who is let in, what web pages may do, and the record of what was changed."""

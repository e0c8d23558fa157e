"""What each kind of job is asked for and answers, and how one chooses layers by another."""

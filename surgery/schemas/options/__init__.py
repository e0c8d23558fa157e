"""The parts that the requests of several kinds of jobs have."""

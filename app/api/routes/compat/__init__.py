"""Fine-tunes in the shapes of OpenAI's API, for clients that know no other.

Each operation is one of the service's own in other words: ``shapes`` has the words, ``translation``
turns them into the service's and back, and nothing is decided here.
"""

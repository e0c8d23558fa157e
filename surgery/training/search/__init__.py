"""Find the layers and the learning rate that learn a task best, by short training runs."""

"""What is made of the results of jobs when they are answered."""

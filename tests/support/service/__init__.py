"""Running services, and the jobs, results and files that tests put into them."""

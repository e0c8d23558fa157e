"""The process that hands models over to other services. It has the network and their secrets."""

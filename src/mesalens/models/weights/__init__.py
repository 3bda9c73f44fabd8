"""Structures of the weights of linear self-attention: free parameters, and their A and B."""

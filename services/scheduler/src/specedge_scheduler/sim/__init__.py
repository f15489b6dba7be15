"""A world in virtual time around the real policy and the real session machines."""

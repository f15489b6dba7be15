"""Drafting with any drafter: growing trees, learning what they are worth, deciding how much.
Shared by edges and by verifiers that draft for hosted sessions. Synchronous, no I/O, no torch."""

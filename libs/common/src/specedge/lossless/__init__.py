"""Measures losslessness: what a running system emits against what the plain decoder emits."""

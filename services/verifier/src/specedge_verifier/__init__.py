"""The SpecEdge verifier: checks drafts with the large model."""

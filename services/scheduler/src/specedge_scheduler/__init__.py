"""The SpecEdge scheduler: assigns batches of drafts to verifiers."""

"""The draft as a value, and what can be asked of it without a model."""

"""The SpecEdge edge: drafts tokens at home and faces the user (OpenAI API)."""

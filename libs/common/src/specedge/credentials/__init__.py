"""Identities: the keys that edges and services prove themselves with, and what each may say."""

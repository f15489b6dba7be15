"""Spans of several services, merged into one timeline: files for viewers, and a picture."""

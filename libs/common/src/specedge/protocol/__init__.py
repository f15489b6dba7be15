"""What is said on the wire, and both ends of a session as state machines without I/O."""

"""What the scheduler decides, as pure code: events and what is known in, effects out."""

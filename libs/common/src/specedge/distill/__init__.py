"""Making a drafter for a target from the target alone: its own text, its own probabilities, its own
layers to start from. Offline work: no service imports this. No asyncio, no network."""

"""What the sessions of one drafter learned together of time and acceptance: costs of a pass and of
a step by rows, the way there and back, what a hosted token takes. Pure; one owner thread."""


class DevicePace:
    """Shared by the controllers of all sessions of one drafter."""

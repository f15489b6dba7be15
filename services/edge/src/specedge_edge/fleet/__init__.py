"""Many emulated edges in one process: real sessions, drafting and links; devices are emulated."""

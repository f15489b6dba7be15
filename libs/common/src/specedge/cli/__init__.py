"""The ``specedge`` command."""

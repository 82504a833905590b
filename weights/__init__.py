"""Anybody's weight files: `reading` without running them, their `formats`, `recognising` and `importing` them."""

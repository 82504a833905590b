"""The machine a run is on: its `device`, free `memory`, `processes` and `files`."""

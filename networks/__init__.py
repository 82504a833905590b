"""Trunks and what heads are made of: `backbones` by name, `blocks`, and the networks that no library has."""

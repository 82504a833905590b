"""What exact re-ranking stands on: where distances come from, in tiles, and who is nearest to whom."""

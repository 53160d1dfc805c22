"""Published data sets: where they come from, how they are fetched, converted and found."""

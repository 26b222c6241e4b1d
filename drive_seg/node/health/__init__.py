"""What the diagnostics say: the fate of every frame, measures of time and rate, and the verdict."""

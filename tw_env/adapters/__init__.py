"""The game in the shapes of other libraries: `sb3` (stable-baselines3), `safety` (Safety-Gymnasium)."""

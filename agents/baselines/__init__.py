"""Agents to compare with: calibrated heuristics and reinforcement learning from stable-baselines3."""

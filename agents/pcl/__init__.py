"""Constrained Path Consistency Learning."""

from agents.pcl.agent import PCL, PCLConfig

__all__ = ["PCL", "PCLConfig"]

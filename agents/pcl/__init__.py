"""Constrained Path Consistency Learning."""

from agents.pcl.agent import PCL
from agents.pcl.config import PCLConfig

__all__ = ["PCL", "PCLConfig"]

"""Certificates: bounds of networks, and the radius around an image inside which its prediction is proved."""

from .bounds import NetworkBound, network_bound
from .certify import ARITHMETIC, Certificates, certified, certify, radii

__all__ = ["ARITHMETIC", "Certificates", "NetworkBound", "certified", "certify", "network_bound", "radii"]

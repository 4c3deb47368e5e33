"""Certificates: bounds of networks, and the radius around an image inside which its prediction is proved."""

from .bounds import NetworkBound, network_bound
from .certify import ARITHMETIC, Arithmetic, Certificates, Certifier, certified, certify, radii

__all__ = [
    "ARITHMETIC",
    "Arithmetic",
    "Certificates",
    "Certifier",
    "NetworkBound",
    "certified",
    "certify",
    "network_bound",
    "radii",
]

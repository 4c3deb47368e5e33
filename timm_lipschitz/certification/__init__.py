"""Certificates: bounds of networks, and the radius around an image inside which its prediction is proved."""

from .bounds import NetworkBound, network_bound
from .certifier import ARITHMETIC, Arithmetic, Certificates, Certifier, certify, radii

__all__ = [
    "ARITHMETIC",
    "Arithmetic",
    "Certificates",
    "Certifier",
    "NetworkBound",
    "certify",
    "network_bound",
    "radii",
]

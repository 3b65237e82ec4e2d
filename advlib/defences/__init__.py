"""Defences: a certificate, transforms and detectors, and what training can ask for."""

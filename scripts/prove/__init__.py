"""Proofs that no work is lost: kills at random moments, full disks, random overrides."""

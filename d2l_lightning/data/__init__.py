"""Datasets as LightningDataModules, and the hub that fetches and verifies their files."""

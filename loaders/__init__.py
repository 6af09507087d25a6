"""Readers of CA databases, and the runner that brings what they read into the store."""

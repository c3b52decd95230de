"""Signed records: one canonical text of a record, and the Ed25519 keys that sign it."""

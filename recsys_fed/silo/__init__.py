"""A deployed silo: its settings, its data source, its secrets and what it keeps. Nothing here is on the server."""

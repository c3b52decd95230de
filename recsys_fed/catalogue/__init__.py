"""The public item table: the same in every silo and on the server."""

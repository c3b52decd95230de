"""The privacy ledger of one silo: append-only, signed, durable before anything leaves; it refuses what exceeds it."""

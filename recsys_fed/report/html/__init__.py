"""One self-contained HTML page of a run, a comparison, a ledger or an audit: no scripts, nothing from elsewhere."""

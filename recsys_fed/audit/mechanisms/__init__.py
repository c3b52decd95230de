"""What silos do to a request, replayed in the auditor's hands: as deployed, and deliberately broken."""

"""Conformance checks: tests of the mechanism in the auditor's hands, with the power that one run lacks."""

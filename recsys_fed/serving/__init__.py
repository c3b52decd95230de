"""The silo's recommendation service. Everything in it stays in the silo; it never speaks to the federation's server.

The serving process works on numpy alone: torch and pandas, which take seconds to import, are needed only by
`packing` and `importing`, which run in processes of their own.
"""

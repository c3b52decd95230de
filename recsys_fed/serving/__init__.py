"""The silo's recommendation service. Everything in it stays in the silo; it never speaks to the federation's server.

The serving process works on numpy alone. `packing` and `importing`, which read tables and catalogues by pyarrow and
may take long, run in processes of their own. Nothing of it needs torch, Flower, SciPy or pandas.
"""

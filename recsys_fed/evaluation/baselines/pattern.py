"""What every baseline reads: which users have which items, whatever the stored values."""

import numpy as np
from scipy import sparse


def pattern_of(train: sparse.csr_matrix | sparse.csr_array) -> sparse.csr_matrix:
    """A copy [n_users, n_items], float64, with ones where `train` has entries other than zero; the argument stays."""
    pattern = sparse.csr_matrix(train, dtype=np.float64, copy=True)
    pattern.sum_duplicates()
    pattern.eliminate_zeros()
    pattern.data[:] = 1.0
    return pattern

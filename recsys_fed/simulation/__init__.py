"""A whole federation on one machine: data, engine, evaluation and the files of a run."""

"""What is run with the library: scenarios, benchmarks and the results in the documentation."""

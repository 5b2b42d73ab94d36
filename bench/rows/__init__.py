"""The benchmarks, one module a row of the table of targets; each has `run(setting) -> Iterator[Result]`."""

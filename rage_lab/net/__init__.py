"""Networks of real processes on one machine: namespaces, links, partitions."""

"""Access to the machine: processes, terminal, files that come with the package, checksums."""

"""Access to the machine: processes, terminal, bundled files, checksums, YAML, and redaction of secrets."""

"""From the fixed program to commands on bytes of a machine with a small on-chip memory."""

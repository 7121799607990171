"""What `cls-bench` measures, and how it says so."""

"""Texts from files: lines, JSON, CSV and Parquet, compressed or not, or standard input."""

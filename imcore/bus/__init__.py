"""The bus carries committed batches to other processes; the tail puts them in order, or reads the log."""

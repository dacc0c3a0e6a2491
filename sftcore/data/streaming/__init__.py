"""Rows that are read, labelled and trained as they come, in an order that follows from data and seed."""

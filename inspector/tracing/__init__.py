"""The record of one pass, the formulas of operators, and the pass itself."""

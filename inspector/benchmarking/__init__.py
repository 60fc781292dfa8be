"""The precision benchmark: what half precision buys, and what it costs in accuracy."""

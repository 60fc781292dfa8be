"""inspector: how big a PyTorch model is, what it computes, and how we know.

The command line is `inspect`; the functions here return the same reports. The table of public names is the
stub beside this file (`__init__.pyi`), which type checkers and editors read too: each name is loaded at its
first use, because torch takes seconds to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

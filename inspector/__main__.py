"""`python -m inspector` is `inspect`."""

from inspector.cli.main import entry

if __name__ == "__main__":
    entry()

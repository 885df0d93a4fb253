import sys

from texalign.cli import main

if __name__ == "__main__":
    sys.exit(main())

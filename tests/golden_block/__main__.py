"""`python -m tests.golden_block FOLDER`: how many of a folder's vectors our engine equals."""

import sys

from tests.block_vectors import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

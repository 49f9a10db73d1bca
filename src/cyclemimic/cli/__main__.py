"""`python -m cyclemimic.cli`: what the studies and torchrun start."""

from cyclemimic.cli import main

if __name__ == "__main__":
    main()

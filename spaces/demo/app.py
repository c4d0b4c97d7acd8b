"""The demo Space: the zoo's own page."""

import zoo

if __name__ == "__main__":
    zoo.serve()

"""The command, also as `python -m goodfit`: from its first line on Ctrl-C ends it with a sentence, whatever is being imported."""

import os

SENTENCE = b"goodfit: Stopped; nothing was begun.\n"


def leave(code: int) -> None:
    """End the process with a sentence, for a signal that comes before the command line receives them."""
    if os.environ.get("RANK", "0") == "0":  # of the processes of one training the first says it
        os.write(2, SENTENCE)
    os._exit(code)


try:
    import signal
except KeyboardInterrupt:
    leave(130)
for _number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(_number) is not signal.SIG_IGN:  # as what a script runs in the background was started with
        signal.signal(_number, lambda number, frame: leave(128 + number))

from goodfit.cli import main  # noqa: E402  takes longer than it takes to press Ctrl-C

if __name__ == "__main__":
    main()

"""train.py for torchrun, but with one process that fails: `dying_train.py RANK HOW EPOCH arguments of train.py`.

HOW: killed, stuck (it doesn't answer for long) or memory (it has too little).
"""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from neural_lib import callbacks, cli, runtime

STEP_LIMIT = timedelta(seconds=5)  # instead of minutes


def fail(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stuck":
        time.sleep(60)
    raise MemoryError


def main() -> int:
    rank, how, at, *arguments = sys.argv[1:]
    on_epoch_end = callbacks.EndTogether.on_epoch_end

    def fail_at_the_end_of_an_epoch(self, epoch, train, val):
        if os.environ["RANK"] == rank and epoch == int(at) and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
            fail(how)
        on_epoch_end(self, epoch, train, val)

    callbacks.EndTogether.on_epoch_end = fail_at_the_end_of_an_epoch
    if how == "stuck":
        runtime.STEP_LIMIT = STEP_LIMIT
    return cli.run(train.main, "train.py", arguments)


if __name__ == "__main__":
    sys.exit(main())

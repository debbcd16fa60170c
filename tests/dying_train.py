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
from neural_lib.system import cli, distributed
from neural_lib.training.state import TrainingState

WAIT_LIMIT = timedelta(seconds=5)  # instead of minutes


def fail(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stuck":
        time.sleep(12)  # longer than WAIT_LIMIT, and than torchrun takes to notice that the other rank has failed
        os._exit(1)
    raise MemoryError


def main() -> int:
    rank, how, at, *arguments = sys.argv[1:]
    end_epoch = TrainingState.end_epoch

    def fail_at_the_end_of_an_epoch(self, val):
        if os.environ["RANK"] == rank and self.epoch == int(at) and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
            fail(how)
        return end_epoch(self, val)

    TrainingState.end_epoch = fail_at_the_end_of_an_epoch
    if how == "stuck":
        distributed.WAIT_LIMIT = WAIT_LIMIT
    return cli.run(train.main, "train.py", arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Take part in a training that another machine leads.

    MACHINES=2 ./run                               there, where the pipeline runs
    ./run python -m tools.join HOST:29400          here, in a clone with the same code

It waits for that machine, fetches what training reads and this clone does not have, starts as many processes as there,
and ends with the training. Ctrl-C or SIGTERM here has all machines stop after the same step, with a checkpoint.
"""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from types import FrameType

import torch

from stages.lib.common import cli
from stages.lib.common.translation import Parser
from stages.lib.processes import machines
from stages.lib.processes.followers import Followers
from stages.lib.processes.group import Lost

HOME = Path(__file__).resolve().parent.parent


def main() -> None:
    """Join the machine that the command line names, and stay until its training is over."""
    parser = Parser(__doc__)
    parser.add_argument("address", metavar="HOST:PORT", help="of the first machine, as it says when it waits")
    address = parser.parse_args().address
    host, _, given = address.rpartition(":")
    port = machines.number(given, machines.LAST_PORT)
    if not host or port is None:
        raise cli.UserError(f"{cli.printable(address)} is not of the form HOST:PORT")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing is left behind then either
    # Beside what it is made of, so that there is room for it; git and DVC pass over the name.
    with tempfile.TemporaryDirectory(prefix=".join-", suffix=".partial", dir=HOME) as folder:
        try:
            join(host.strip("[]"), port, Path(folder))
        except Lost as lost:
            raise cli.UserError(
                f"the first machine is gone ({cli.printable(str(lost))}): this command joins it when it runs again"
            ) from None


def join(host: str, port: int, folder: Path) -> None:
    """Work in `folder` for the machine at this address until the training is over."""
    place = machines.Place(host, port)
    here = place.job.processes // place.job.machines
    if 0 < (gpus := torch.cuda.device_count()) < here:
        raise cli.UserError(f"there are {gpus} GPUs here, and {here} processes wanted: set train.processes there")
    place.bring(HOME, folder)
    cli.say(f"join: everything is here, waiting until {place.job.machines} machines are")
    ranks = place.take()
    threads = torch.get_num_threads() if gpus else max(1, torch.get_num_threads() // here)
    with Followers(place.job.stage, ranks, place.job.processes, here, (host, port), threads, folder) as processes:
        told: list[int] = []

        def pass_on(number: int, frame: FrameType | None) -> None:
            told.append(number)
            processes.tell(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        cli.say(f"join: at work, with {here} of {place.job.processes} processes")
        try:
            processes.wait()
        except cli.UserError:
            if not told:
                raise
    if told:
        raise cli.Stopped(f"stopped ({signal.Signals(told[0]).name}): training goes on when it is started again", 1)
    cli.say("join: the training is over")


if __name__ == "__main__":
    cli.run(main)

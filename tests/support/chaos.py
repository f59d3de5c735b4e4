"""What a chaos run does, drawn from a seed: which faults come when, and which jobs meet them. Pure: nothing runs here.

The same seed, length and setting give the same schedule and the same jobs, on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.support.chord_app import LEASE


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run's rows and messages are kept in. Results and live snapshots are in Redis everywhere."""

    database: str
    broker: str


SETTINGS = {
    "sqlite": Setting(database="sqlite", broker="redis"),
    "postgres": Setting(database="postgres", broker="redis"),
    "rabbitmq": Setting(database="postgres", broker="rabbitmq"),
}
EVERYWHERE = frozenset(SETTINGS)
_POSTGRES = frozenset(name for name, setting in SETTINGS.items() if setting.database == "postgres")
_RABBITMQ = frozenset(name for name, setting in SETTINGS.items() if setting.broker == "rabbitmq")

#: Who can be struck. ``database`` stands for the server, the file's lock, or the way there.
ACTORS = ("worker1", "worker2", "beat", "web", "redis", "database", "rabbit")
#: Whose way to Redis, RabbitMQ or the database can be cut or stalled alone.
CLIENTS = ("worker1", "worker2", "beat", "web", "publisher")
#: The deeds of a way rather than of its server.
ON_THE_WAY = frozenset({"cut", "stall", "deafen"})
#: Seconds without a fault of the same actor, from the end of one to the next.
PAUSE = (2.5, 8.0)
#: Nothing is struck before the first jobs are under way. Seconds.
CALM = 1.5


@dataclass(frozen=True, kw_only=True)
class Deed:
    """One kind of fault. ``hold``: the shortest and the longest time until it is undone, in seconds."""

    actor: str
    name: str
    hold: tuple[float, float]
    settings: frozenset[str] = EVERYWHERE


DEEDS: tuple[Deed, ...] = (
    # kill -9 of the whole group, as of a machine that lost power
    Deed(actor="worker", name="kill", hold=(0.0, 3.0)),
    # kill -9 of one process of the pool, as the kernel does when memory is short
    Deed(actor="worker", name="kill_child", hold=(0.0, 0.0)),
    # SIGSTOP for longer than a lease: it wakes up to find that others have taken over
    Deed(actor="worker", name="freeze", hold=(1.2 * LEASE, 2 * LEASE)),
    # SIGTERM, as in a deploy
    Deed(actor="worker", name="stop", hold=(0.0, 1.0)),
    # SIGQUIT, a deploy that cannot wait
    Deed(actor="worker", name="quit", hold=(0.0, 1.0)),
    Deed(actor="beat", name="kill", hold=(0.0, 4.0)),
    Deed(actor="beat", name="freeze", hold=(1.0, 2 * LEASE)),
    # a second one beside it
    Deed(actor="beat", name="double", hold=(2.0, 6.0)),
    Deed(actor="web", name="kill", hold=(0.0, 2.0)),
    Deed(actor="web", name="stop", hold=(0.0, 1.0)),
    # kill -9: what it had acknowledged is in its append-only file
    Deed(actor="redis", name="kill", hold=(0.0, 3.0)),
    # messages, results, chord counters and kept snapshots are gone
    Deed(actor="redis", name="flush", hold=(0.0, 0.0)),
    Deed(actor="redis", name="cut", hold=(0.2, 3.0)),
    Deed(actor="redis", name="stall", hold=(0.5, 2 * LEASE)),
    # what it was asked to do is done, and the answer lost: a message that was taken, a script that ran
    Deed(actor="redis", name="deafen", hold=(0.2, 2.0)),
    # out of memory: it reads, and refuses to write
    Deed(actor="redis", name="fill", hold=(0.5, 2 * LEASE)),
    # another connection holds SQLite's write lock
    Deed(actor="database", name="lock", hold=(0.5, 2 * LEASE), settings=EVERYWHERE - _POSTGRES),
    Deed(actor="database", name="cut", hold=(0.2, 3.0), settings=_POSTGRES),
    Deed(actor="database", name="stall", hold=(0.5, 2 * LEASE), settings=_POSTGRES),
    # a COMMIT that took effect, and nobody knows
    Deed(actor="database", name="deafen", hold=(0.2, 2.0), settings=_POSTGRES),
    # kill -9 of PostgreSQL: what was committed without waiting for the disk may be gone
    Deed(actor="database", name="kill", hold=(0.0, 2.0), settings=_POSTGRES),
    Deed(actor="database", name="stop", hold=(0.0, 1.0), settings=_POSTGRES),
    # kill -9: queues are durable, but what was not yet on the disk is gone
    Deed(actor="rabbit", name="kill", hold=(0.0, 2.0), settings=_RABBITMQ),
    # SIGTERM, as in an upgrade
    Deed(actor="rabbit", name="stop", hold=(0.0, 1.0), settings=_RABBITMQ),
    Deed(actor="rabbit", name="cut", hold=(0.2, 3.0), settings=_RABBITMQ),
    Deed(actor="rabbit", name="stall", hold=(0.5, 2 * LEASE), settings=_RABBITMQ),
    Deed(actor="rabbit", name="deafen", hold=(0.2, 2.0), settings=_RABBITMQ),
)


@dataclass(frozen=True, kw_only=True, order=True)
class Step:
    """A deed of the schedule. Times are seconds since the start; it is undone after ``hold``.

    ``whom`` is the client whose way is cut or stalled; ``all`` for every one.
    """

    at: float
    actor: str
    deed: str
    hold: float
    whom: str = "all"
    #: Chooses among what is there when the time comes (the children of a pool). From 0 to 1.
    pick: float = 0.0

    def __str__(self) -> str:
        whom = "" if self.whom == "all" else f" of {self.whom}"
        return f"{self.at:6.2f} s  {self.actor} {self.deed}{whom} for {self.hold:.2f} s"


def schedule(seed: int, seconds: float, setting: str = "sqlite") -> list[Step]:
    """Every fault of a run, in order. One actor has one fault at a time; all are undone at ``seconds``."""
    steps: list[Step] = []
    for actor in ACTORS:
        random = Random(f"{seed} {setting} {actor}")
        deeds = [deed for deed in DEEDS if actor.startswith(deed.actor) and setting in deed.settings]
        if not deeds:
            continue
        at = CALM + random.uniform(0.0, PAUSE[1])
        while True:
            deed = random.choice(deeds)
            hold = random.uniform(*deed.hold)
            # Half of the outages strike one client alone, which is then wrong about the others.
            whom = random.choice(("all",) * len(CLIENTS) + CLIENTS) if deed.name in ON_THE_WAY else "all"
            if at + hold > seconds:
                break
            steps.append(
                Step(
                    at=round(at, 2),
                    actor=actor,
                    deed=deed.name,
                    hold=round(hold, 2),
                    whom=whom,
                    pick=round(random.random(), 2),
                )
            )
            at += hold + random.uniform(*PAUSE)
    return sorted(steps)


@dataclass(frozen=True, kw_only=True)
class ChunkPlan:
    """One chunk's work: five pages in ``seconds``, then ``do`` (of the chord app's deeds); ``once`` only once."""

    seconds: float
    do: str = ""
    once: bool = False


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """A job that is published ``at`` seconds after the start.

    :ivar cancel_after: a person cancels it so many seconds after it was published.
    :ivar retry: a person presses retry when it has ended PARTIAL.
    :ivar presses: a person cancels it, retries it, cancels it again, and so on, each after so many more seconds; the
        last is a retry.
    :ivar publish_seconds: what publishing one message takes.
    """

    name: str
    kind: str
    at: float
    chunks: tuple[ChunkPlan, ...]
    cancel_after: float | None = None
    retry: bool = False
    presses: tuple[float, ...] = ()
    publish_seconds: float = 0.0

    @property
    def doomed(self) -> frozenset[int]:
        """The chunks that fail however often they run."""
        return frozenset(index for index, chunk in enumerate(self.chunks) if chunk.do == "fail" and not chunk.once)


#: Every run has one of each, in this order, and then again.
KINDS = ("plain", "failing", "repeating", "cancelled", "retried", "pressed", "slow")
#: The deed of a few of a kind's chunks, and whether it is done once.
_ODD: dict[str, tuple[str, bool]] = {
    "failing": ("fail", False),
    "repeating": ("retry", True),
    "retried": ("fail", True),
}
#: A long run has work all the time: a job in so many seconds.
_JOB_EVERY = 6.0


def jobs(seed: int, seconds: float) -> list[JobPlan]:
    """The jobs of a run, in the order in which they are published; the last ones before the faults end."""
    random = Random(f"{seed} jobs")
    count = max(len(KINDS), int(seconds / _JOB_EVERY))
    return [
        _job(random, number, at=round(number * 0.8 * seconds / count, 2), kind=KINDS[number % len(KINDS)])
        for number in range(count)
    ]


def _job(random: Random, number: int, *, at: float, kind: str) -> JobPlan:
    # Half of them so short that their completions are committed together.
    chunks = [
        ChunkPlan(seconds=round(random.choice((0.01, random.uniform(0.05, 0.5))), 2))
        for _ in range(random.randint(30, 48))
    ]
    if kind in _ODD:
        do, once = _ODD[kind]
        for index in random.sample(range(len(chunks)), 3):
            chunks[index] = ChunkPlan(seconds=chunks[index].seconds, do=do, once=once)
    return JobPlan(
        name=f"{number:03d}-{kind}",
        kind=kind,
        at=at,
        chunks=tuple(chunks),
        cancel_after=round(random.uniform(1.0, 6.0), 2) if kind == "cancelled" else None,
        retry=kind == "retried",
        presses=tuple(round(random.uniform(0.0, 2.5), 2) for _ in range(4)) if kind == "pressed" else (),
        # The whole header takes longer than a lease.
        publish_seconds=round(1.5 * LEASE / len(chunks), 3) if kind == "slow" else 0.0,
    )


def script(steps: Sequence[Step]) -> str:
    """The schedule for a person to read."""
    return "\n".join(map(str, steps))

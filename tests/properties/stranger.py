"""An edge that nobody should have to trust, for tests in virtual time."""

from dataclasses import dataclass, field
from random import Random

from specedge.clock import ManualClock
from specedge.ids import EdgeId, Round, SessionId, SessionKey
from specedge.protocol import codec
from specedge.protocol.context import context_chunks
from specedge.protocol.messages import Ahead, Draft, SessionParams, Verdict
from specedge.protocol.subjects import Work
from specedge.protocol.token_log import TokenLog
from tests.properties.session_nodes import VOCAB
from tests.properties.session_world import IDENTITY, LIMITS
from tests.properties.verifier_process import VerifierProcess

MANY = 2**31 - 1  # the largest number of a message


@dataclass
class Stranger:
    """An edge that keeps to no protocol, but to its own sessions: the broker lets it go no further.
    What it says often agrees with what is held there by chance."""

    clock: ManualClock
    random: Random
    verifiers: dict[str, VerifierProcess]
    pause_s: float
    texts: dict[SessionKey, list[int]] = field(default_factory=dict)
    params: dict[SessionKey, SessionParams] = field(default_factory=dict)
    round: dict[SessionKey, int] = field(default_factory=dict)
    num_left: int = 300  # of what it says

    def __post_init__(self) -> None:
        edge = EdgeId("U" + "B" * 55)
        for number in range(3):
            key = SessionKey(edge, SessionId(f"{number:032x}"))
            self.texts[key], self.round[key] = [], 0
        self.act()

    def act(self) -> None:
        self.num_left -= 1
        if self.num_left > 0:
            key = self.random.choice(list(self.texts))
            verifier = self.random.choice(list(self.verifiers.values()))
            self._speak(verifier, key)
            pause_s = self.random.random() * self.pause_s
            self.clock.call_at(self.clock.now_s() + pause_s, self.act)

    def hear(self, key: SessionKey, payload: bytes) -> None:
        said = codec.decode_down(payload)
        if isinstance(said, Verdict) and self.random.random() < 0.7:
            self.texts[key] += [*said.path, said.bonus]
            self.round[key] = min(said.round + 1, MANY)

    def _speak(self, verifier: VerifierProcess, key: SessionKey) -> None:
        what = self.random.random()
        if what < 0.25 or not self.texts[key]:
            self._send_context(verifier, key)
        elif what < 0.9:
            draft = self._draft(key)
            item = codec.batch_item(draft, key, budget_ms=draft.budget_ms, held_ms=0.0)
            verifier.on_item(item)
            if what < 0.4:
                said = draft.model_dump(include={"round", "base", "hash", "token", "parent"})
                verifier.on_ahead(key, Ahead(**said, nodes=self.random.choice((0, 3, MANY))))
        elif what < 0.95:
            verifier.on_ending(key)
        else:
            verifier.hear(self.random.choice(list(Work)), self.random.randbytes(20), key)

    def _send_context(self, verifier: VerifierProcess, key: SessionKey) -> None:
        random, text = self.random, self.texts[key]
        if not text or random.random() < 0.5:
            text = [random.randrange(VOCAB) for _ in range(random.choice((1, 2, 20, 100)))]
        prompt = random.randint(1, len(text))
        self.texts[key] = list(text)
        self.params[key] = params = SessionParams(
            model=IDENTITY.model,
            weights=IDENTITY.weights,
            tokenizer=IDENTITY.tokenizer,
            prompt=prompt,
            max_tokens=len(text) - prompt + random.choice((0, 1, 5, 50)) or 1,
            seed=random.randrange(3),
            stop=random.choice(((), (3, 9))),
        )
        if random.random() < 0.2:
            self.round[key] = random.choice((0, 5, MANY, MANY))
        for chunk in context_chunks(TokenLog(params, text), params, Round(self.round[key])):
            verifier.on_context(key, chunk[:-4] if random.random() < 0.1 else chunk)

    def _draft(self, key: SessionKey) -> Draft:
        random, text = self.random, self.texts[key]
        base = random.choice((len(text), len(text), random.randint(1, len(text))))
        hash_ = TokenLog(self.params[key], text).hash_at(base)
        num_nodes = random.choice((0, 3, LIMITS.nodes, LIMITS.nodes + 1))
        return Draft(
            round=min(max(self.round[key] + random.choice((0, 0, 0, 1, -1, 7)), 0), MANY),
            try_=random.choice((0, 0, 1, 2, MANY)),
            base=base,
            hash=random.choice((hash_, hash_, hash_, "0" * 16)),
            append=tuple(random.randrange(VOCAB) for _ in range(random.choice((0, 0, 1, 17)))),
            token=tuple(random.randrange(VOCAB + 1) for _ in range(num_nodes)),
            parent=tuple(random.randrange(-1, node) for node in range(num_nodes)),
            run=random.choice((0, 0, 1, LIMITS.grant, LIMITS.grant + 1)),
            budget_ms=random.choice((0, 20, 1000, MANY)),
        )

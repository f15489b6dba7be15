"""How much to draft, round by round, or whether to leave it to the verifier: from measurements.

One ``DraftController`` per session; a ``DevicePace`` holds what all sessions of a drafter learned
together. Pure and synchronous: no clock, no torch, no loop; times come in as values. One owner
thread for a pace and all its controllers; what crosses to the thread that drafts is frozen.
"""

from dataclasses import replace
from typing import Final

from specedge.drafting.averages import Yield
from specedge.drafting.forecast import Forecast, RoundCosts, forecast
from specedge.drafting.growth_rule import GrowthRule, PassRecord
from specedge.drafting.hosted_switch import HostedSwitch
from specedge.drafting.pace import SESSION_SAMPLES, DevicePace, doubt
from specedge.drafting.rounds import Decision, HostedOutcome, RoundOutcome
from specedge.params import DraftPolicy

# Of a device of which nothing is known.
FIRST_ROUND: Final = DraftPolicy(depth=3, budget=8)

_MEMORY: Final = 64.0  # rounds of a session: its text is easier and harder in turn
_USUAL_ROUNDS: Final = 24.0  # of its own, that what all sessions yielded is worth to a session
_FORECAST_ROUNDS: Final = 8.0  # that a forecast is worth where little was seen
_RETURN: Final = 3.0  # rounds of its past that count when a session drafts again
_SETTLED: Final = 8.0  # rounds after which outliers are told from news
_FORECAST_EVERY: Final = 8  # rounds, or half as many grants
_OUTLIER: Final = 4.0  # times the usual
_LEAST_OUTLIER_MS: Final = 5.0  # more: four times nothing is nothing
_MOST_GUESSED_MS: Final = 150.0  # of a link, by a round that holds more than the link
_TRIPS_TOLD: Final = 2  # after which a resend is told from a long link
_DEEPER_EVERY: Final = 24  # rounds between two that go a level deeper than is worth it
_WIDER_EVERY: Final = 10  # rounds between two that send more nodes than any before
_AGAIN_EVERY: Final = 6  # rounds, where lately no tree was worth while at all


class DraftController:
    """One session's pace. ``bounds`` is the most that the operator allows to be drafted,
    ``grant_tokens`` what a grant holds at least, where it may."""

    def __init__(self, pace: DevicePace, bounds: DraftPolicy, grant_tokens: int) -> None:
        self._pace = pace
        self._bounds = bounds
        self._switch = HostedSwitch(pace, grant_tokens)
        self._children = pace.children.newest(SESSION_SAMPLES)
        self._seen = Yield.over(_MEMORY)
        self._forecast = Forecast(1.0, 0.0)
        self._forecast_age = _FORECAST_EVERY  # rounds
        self._num_rounds = 0
        self._num_levels = 0
        self._is_warm = False  # whether a drafted round was answered since the last change

    @property
    def rate(self) -> float:
        """Tokens per millisecond that this session makes by drafting, as far as is known."""
        network_ms, usual = self._pace.network_ms.mean, self._pace.usual
        step_ms = self._pace.step_ms
        # Rounds that each source is worth: this session's own, all sessions', and the forecast,
        # which matters as long as there is little else.
        usual_weight = min(usual.weight, _USUAL_ROUNDS)
        forecast_weight = _FORECAST_ROUNDS / (1.0 + usual.weight / _FORECAST_ROUNDS)
        tokens = forecast_weight * self._forecast.tokens
        ms = forecast_weight * self._forecast.ms
        for weight, seen in ((self._seen.weight, self._seen), (usual_weight, usual)):
            tokens += weight * seen.tokens.mean
            # Rounds begun ahead spared what the network took then; it may take less by now.
            ms += weight * max(seen.own_ms_beside(step_ms) + network_ms, step_ms)
        return tokens / max(ms, 1e-6)

    def decide(self, max_nodes: int, max_grant: int) -> Decision:
        """The next round, within the session's limits (``max_grant`` 0: no grants)."""
        bounds = replace(self._bounds, budget=min(self._bounds.budget, max_nodes))
        if self._pace.step_cost.weight == 0.0:
            depth, budget = FIRST_ROUND.depth, FIRST_ROUND.budget
            return Decision(
                replace(bounds, depth=min(bounds.depth, depth), budget=min(bounds.budget, budget))
            )
        self._look_ahead(bounds)
        if (run := self._choose_run(max_grant)) > 0:
            return Decision(None, run=run)
        return self._draft(replace(bounds, floor=0.0))

    def observe_passes(self, passes: tuple[PassRecord, ...]) -> None:
        """What the drafter's passes took and proposed, those of proactive drafting included."""
        if not passes:
            self._num_levels = 0
            return
        # Those ahead of a verdict count their levels from another root.
        levels = [int(record.depth.max()) for record in passes if not record.is_ahead]
        self._num_levels = 1 + max(levels) if levels else self._num_levels
        for number, record in enumerate(passes):
            self._children.add(record)
            self._pace.children.add(record)
            if self._is_warm or number > 0:  # a session's first pass reads the prompt too
                self._pace.learn_pass(record)

    def observe_verdict(self, outcome: RoundOutcome) -> None:
        """A drafted round was answered."""
        pace = self._pace
        pace.learn_trust(outcome.expected, outcome.num_accepted)
        own_rows, queue_ms = 1 + outcome.num_tried, outcome.queue_ms
        if self._is_warm:
            pace.learn_step(outcome.step_rows, own_rows, outcome.step_ms, queue_ms)
        else:  # the prompt's rows may be in it, and the wait for them
            num_rows = max(outcome.step_rows, own_rows)
            pace.learn_step(num_rows, None, outcome.step_ms, pace.queue_ms.mean)
        if outcome.round_trip_ms is not None:
            self._learn_time(outcome, outcome.round_trip_ms)
        elif outcome.gap_ms is not None:
            # No way there and back: what ``rate`` adds for it was spared.
            self._learn_yield(outcome, outcome.gap_ms - pace.network_ms.mean)
        self._switch.note_verdict(
            1 + outcome.num_accepted, was_hosted=False, took_ms=outcome.took_ms
        )

    def observe_hosted(self, outcome: HostedOutcome) -> None:
        """A verdict came under a grant."""
        pace = self._pace
        own_rows = 1 + outcome.num_tried
        pace.learn_step(outcome.step_rows, own_rows, outcome.step_ms, outcome.queue_ms)
        if outcome.elapsed_ms is not None and (usual_ms := pace.expected_hosted_ms()) > 0:
            ratio = outcome.elapsed_ms / outcome.num_tokens / usual_ms
            usual = pace.hosted_ratio.mean
            if pace.hosted_ratio.weight < _SETTLED:
                usual = max(usual, 1.0)
            ratio = min(ratio, _OUTLIER * usual)  # whoever reads may have paused
            pace.hosted_ratio.add(ratio, share=outcome.num_tokens)
            pace.allowance.earn(outcome.elapsed_ms)
        self._switch.note_verdict(outcome.num_tokens, was_hosted=True)

    def _learn_time(self, outcome: RoundOutcome, round_trip_ms: float) -> None:
        pace = self._pace
        network_ms = max(0.0, round_trip_ms - outcome.queue_ms - outcome.step_ms)
        if not self._is_warm:  # it holds the prompt's prefill, or the end of a grant
            self._is_warm = True
            if pace.network_ms.weight == 0.0:  # a guess, until there is something better
                pace.network_ms.mean = min(network_ms, _MOST_GUESSED_MS)
            return
        if pace.num_trips >= _TRIPS_TOLD:
            resent_ms = _OUTLIER * pace.network_ms.mean + _LEAST_OUTLIER_MS
            network_ms = min(network_ms, resent_ms)
        pace.network_ms.add(network_ms)
        pace.num_trips += 1
        self._learn_yield(outcome, outcome.draft_ms + outcome.queue_ms + outcome.step_ms)
        pace.allowance.earn(network_ms)

    def _learn_yield(self, outcome: RoundOutcome, own_ms: float) -> None:
        """The tokens of a round, and its time beside the network's."""
        pace, seen = self._pace, self._seen
        known = seen if seen.weight >= _SETTLED else pace.usual
        # A stall is told by the whole time: beside the network's, rounds that were begun ahead
        # take less than nothing on a long link, and four times that would be ever less.
        network_ms = pace.network_ms.mean
        # And none takes less than a step, wherever both means are on their way to.
        least_ms = max(pace.step_ms, _LEAST_OUTLIER_MS)
        if known.weight == 0.0:  # nobody knows more yet
            least_ms += outcome.draft_ms
        whole_ms = max(known.own_ms.mean + network_ms, least_ms)
        own_ms = min(own_ms, _OUTLIER * whole_ms - network_ms)
        expected = 1.0 + pace.trust * outcome.expected
        for each in (seen, pace.usual):
            each.add(expected, own_ms, pace.step_ms)
        pace.num_rounds += 1
        pace.num_trees += outcome.num_tried > 0
        pace.allowance.earn(max(own_ms, 0.0))

    # ------------------------------------------------------------ drafted or hosted

    def _choose_run(self, max_grant: int) -> int:
        """Tokens to grant; 0: draft."""
        was_hosted = self._switch.is_hosted
        run = self._switch.choose_run(self.rate, max_grant)
        if max_grant > 0 and self._switch.is_hosted != was_hosted:
            self._forecast_age = _FORECAST_EVERY
            if was_hosted:
                self._begin_drafting()
        return run

    def _begin_drafting(self) -> None:
        """What is found now counts for more than what was known when drafting was left."""
        self._seen.fade(_RETURN)
        self._pace.usual.fade(_USUAL_ROUNDS)
        self._pace.network_ms.fade(1.0)
        self._is_warm = False

    # ------------------------------------------------------------ the rule of a round

    def _look_ahead(self, bounds: DraftPolicy) -> None:
        """Forecast anew, now and then: costs and text change slowly."""
        self._forecast_age += 2 if self._switch.is_hosted else 1
        if self._forecast_age < _FORECAST_EVERY:
            return
        self._forecast_age = 0
        pace = self._pace
        pass_ms, row_ms = pace.draft_ms()
        fixed_ms = pace.network_ms.mean + pace.queue_ms.mean
        self._forecast = forecast(
            pace.children.view(),
            RoundCosts(fixed_ms, pass_ms, row_ms, pace.verify_ms(bounds.budget)),
            trust=pace.trust,
            depth=bounds.depth,
            beams=bounds.beams,
        )

    def _draft(self, bounds: DraftPolicy) -> Decision:
        self._num_rounds += 1
        rule = self._rule(bounds.budget)
        if self._is_turn(_DEEPER_EVERY if self._num_levels else _AGAIN_EVERY):
            return self._deeper(bounds, rule)
        if self._is_turn(_WIDER_EVERY):
            return Decision(bounds, self._wider(rule))
        return Decision(bounds, rule)

    def _is_turn(self, every: int) -> bool:
        return self._num_rounds % every == every - 1

    def _deeper(self, bounds: DraftPolicy, rule: GrowthRule) -> Decision:
        """One level more than lately, whatever it costs: else its worth stays unknown."""
        allowance = self._pace.allowance
        if self._num_levels < bounds.depth and allowance.try_spend_little(2 * rule.pass_ms):
            rule = replace(rule, pass_ms=0.0, row_ms=0.0)
            bounds = replace(bounds, depth=self._num_levels + 1)
        return Decision(bounds, rule)

    def _wider(self, rule: GrowthRule) -> GrowthRule:
        """Up to twice as many nodes as any step had rows, as if they were free, until it is known
        what they cost."""
        known = max(4, int(self._pace.known_nodes))
        if known >= rule.budget:
            return rule
        budget = min(rule.budget, 2 * known)
        feared_ms = self._pace.verify_ms(budget)
        if not self._pace.allowance.try_spend_little(float(feared_ms[-1] - feared_ms[known])):
            return rule
        return replace(rule, verify_ms=self._pace.verify_ms(budget, unseen_slope=0.0))

    def _rule(self, budget: int) -> GrowthRule:
        pass_ms, row_ms = self._pace.draft_ms()
        return GrowthRule(
            rate=self.rate * (1.0 - doubt(self._pace.num_trees)),
            trust=self._pace.trust,
            pass_ms=pass_ms,
            row_ms=row_ms,
            verify_ms=self._pace.verify_ms(budget),
            children=self._children.view(),
        )

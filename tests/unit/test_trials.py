"""Habits that are tried: kept if sessions go faster, else ever more rarely."""

from specedge_scheduler.policy.trials import LONGEST_WAIT, SPAN_BATCHES, Habits, Trials


def spent(
    rate_of: dict[Habits, float], spans: int, trials: Trials, now_s: float = 0.0
) -> list[Habits]:
    """The habits of each span, where tokens come as fast as ``rate_of`` them says."""
    seen = []
    for _ in range(spans):
        seen.append(trials.habits)
        for _ in range(SPAN_BATCHES):
            now_s += 0.1
            trials.note(rate_of.get(trials.habits, 1.0), 8, now_s)
    return seen


def test_what_is_best_is_kept_and_trials_of_the_rest_become_rare() -> None:
    best = Habits(holds=False, tells=True)
    trials = Trials()

    seen = spent({best: 1.2}, 400, trials)

    assert trials.habits == best or trials._kept == best
    assert seen[-200:].count(best) > 0.9 * 200


def test_the_usual_habits_stay_where_nothing_else_is_better() -> None:
    trials = Trials()

    seen = spent({Habits(): 1.0}, 300, trials)

    assert seen.count(Habits()) > 0.9 * len(seen)
    assert {False} <= {habits.holds for habits in seen}
    assert {False} <= {habits.tells for habits in seen}
    assert max(trials._waits.values()) <= LONGEST_WAIT


def test_another_load_begins_with_the_usual_habits() -> None:
    trials = Trials()
    spent({Habits(holds=False): 1.2}, 20, trials)
    assert trials._kept == Habits(holds=False)

    trials.note(1.0, 16, 1000.0)

    assert trials.habits == trials._kept == Habits()


def test_a_trial_that_clearly_loses_is_broken_off() -> None:
    trials, now_s, in_trial = Trials(), 0.0, 0
    for _ in range(4 * SPAN_BATCHES):
        now_s += 0.1
        in_trial += trials.habits != Habits()
        trials.note(1.0 if trials.habits == Habits() else 0.5, 8, now_s)

    assert 0 < in_trial < 2 * 0.6 * SPAN_BATCHES  # two habits were tried

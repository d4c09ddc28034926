"""The schedule decides alone: no clock, disk, torch or Ray."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.protocol import events
from sweeper.protocol.events import SegmentId, SnapshotId
from sweeper.schedule.schedule import Progress, Schedule


def schedule_of(*names: str, **options: int) -> Schedule:
    return Schedule({name: Progress() for name in names}, **options)


def start(slot: int, trial: str, attempt: int = 1, step: int = 0) -> events.StartTrials:
    return events.StartTrials(slot=slot, starts=(events.Start(trial=trial, attempt=attempt, step=step),))


def segment(trial: str, attempt: int = 1, number: int = 0) -> SegmentId:
    return SegmentId(trial=trial, attempt=attempt, number=number)


def snapshot(trial: str, step: int, attempt: int = 1) -> SnapshotId:
    return SnapshotId(trial=trial, attempt=attempt, step=step)


def test_a_trainer_that_is_ready_gets_the_first_waiting_trial() -> None:
    schedule = schedule_of("a", "b")
    assert schedule.handle(events.TrainerReady(slot=0)) == [start(0, "a")]
    assert schedule.handle(events.TrainerReady(slot=1)) == [start(1, "b")]
    assert schedule.handle(events.TrainerReady(slot=2)) == []


def test_a_resumed_trial_starts_at_its_last_committed_step() -> None:
    schedule = Schedule({"a": Progress(committed_step=200)})
    assert schedule.handle(events.TrainerReady(slot=0)) == [start(0, "a", step=200)]


def test_a_finished_trial_frees_its_trainer_before_it_is_committed() -> None:
    schedule = schedule_of("a", "b")
    schedule.handle(events.TrainerReady(slot=0))
    commands = schedule.handle(events.SegmentEnded(slot=0, stop=10, outcome="done"))
    assert commands == [events.Commit(segment=segment("a")), start(0, "b")]


def test_a_segment_is_committed_only_when_all_its_snapshots_are_measured() -> None:
    schedule = schedule_of("a")
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.EstimatorReady(slot=0))
    measure = [events.Measure(slot=0, snapshot=snapshot("a", 0))]
    assert schedule.handle(events.SnapshotTaken(slot=0, step=0)) == measure
    assert schedule.handle(events.SnapshotTaken(slot=0, step=5)) == []
    assert schedule.handle(events.SegmentEnded(slot=0, stop=10)) == []
    second = [events.Measure(slot=0, snapshot=snapshot("a", 5))]
    assert schedule.handle(events.Measured(slot=0, snapshot=snapshot("a", 0))) == second
    committed = [events.Commit(segment=segment("a"))]
    assert schedule.handle(events.Measured(slot=0, snapshot=snapshot("a", 5))) == committed


def test_segments_of_a_trial_are_committed_in_order() -> None:
    schedule = schedule_of("a")
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.EstimatorReady(slot=0))
    schedule.handle(events.SnapshotTaken(slot=0, step=0))
    schedule.handle(events.SegmentEnded(slot=0, stop=10))
    assert schedule.handle(events.SegmentEnded(slot=0, stop=20, outcome="done")) == []
    both = [events.Commit(segment=segment("a", number=0)), events.Commit(segment=segment("a", number=1))]
    assert schedule.handle(events.Measured(slot=0, snapshot=snapshot("a", 0))) == both


def test_a_failed_trial_goes_to_the_back_and_is_given_up_in_the_end() -> None:
    schedule = schedule_of("a", "b", max_attempts=2)
    assert schedule.handle(events.TrainerReady(slot=0)) == [start(0, "a")]
    first = schedule.handle(events.TrialRaised(slot=0, error="no"))
    note = events.NoteFailure(trial="a", attempt=1, kind="raised", error="no")
    assert first == [events.Discard(segment=segment("a")), note, start(0, "b")]
    schedule.handle(events.SegmentEnded(slot=0, stop=10, outcome="done"))
    schedule.handle(events.Committed(segment=segment("b")))
    assert schedule.trial_on(0) == "a"
    second = schedule.handle(events.TrialRaised(slot=0, error="again"))
    give_up = events.GiveUp(trial="a", attempt=2, kind="raised", error="again")
    assert second == [events.Discard(segment=segment("a", attempt=2)), give_up]
    assert schedule.finished


def test_a_trial_whose_trainer_died_waits_until_what_it_finished_is_committed() -> None:
    schedule = schedule_of("a")
    schedule.handle(events.TrainerReady(slot=0))
    assert schedule.handle(events.SegmentEnded(slot=0, stop=10)) == [events.Commit(segment=segment("a"))]
    died = schedule.handle(events.TrainerDied(slot=0, error="killed"))
    assert died == [events.Discard(segment=segment("a", number=1)), events.ReplaceTrainer(slot=0)]
    assert schedule.handle(events.TrainerReady(slot=0)) == []
    after = schedule.handle(events.Committed(segment=segment("a")))
    assert after[-1] == start(0, "a", attempt=2, step=10)


def test_an_estimator_that_dies_gives_its_snapshot_back_to_the_front_of_the_queue() -> None:
    schedule = schedule_of("a")
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.EstimatorReady(slot=0))
    schedule.handle(events.SnapshotTaken(slot=0, step=0))
    schedule.handle(events.SnapshotTaken(slot=0, step=1))
    assert schedule.handle(events.EstimatorDied(slot=0, error="killed")) == [events.ReplaceEstimator(slot=0)]
    again = [events.Measure(slot=0, snapshot=snapshot("a", 0))]
    assert schedule.handle(events.EstimatorReady(slot=0)) == again


def test_a_snapshot_that_cannot_be_measured_does_not_hold_its_segment_for_ever() -> None:
    schedule = schedule_of("a", max_attempts=2)
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.EstimatorReady(slot=0))
    schedule.handle(events.SnapshotTaken(slot=0, step=0))
    schedule.handle(events.SegmentEnded(slot=0, stop=10, outcome="done"))
    taken = snapshot("a", 0)
    first = schedule.handle(events.MeasureRaised(slot=0, snapshot=taken, error="no"))
    assert first == [events.Measure(slot=0, snapshot=taken)]
    second = schedule.handle(events.MeasureRaised(slot=0, snapshot=taken, error="no"))
    assert second == [events.MeasureFailed(snapshot=taken, error="no"), events.Commit(segment=segment("a"))]


def test_a_lost_snapshot_sends_its_trial_back_to_the_segment_before() -> None:
    schedule = schedule_of("a")
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.EstimatorReady(slot=0))
    schedule.handle(events.SnapshotTaken(slot=0, step=0))
    schedule.handle(events.SegmentEnded(slot=0, stop=10))
    lost = schedule.handle(events.SnapshotLost(slot=0, snapshot=snapshot("a", 0), error="node gone"))
    assert lost[:3] == [
        events.Discard(segment=segment("a", number=1)),
        events.Discard(segment=segment("a", number=0)),
        events.Abandon(slot=0),
    ]
    assert schedule.handle(events.TrainerReady(slot=0)) == [start(0, "a", attempt=2, step=0)]


def test_a_verdict_on_a_snapshot_of_a_dropped_attempt_is_ignored() -> None:
    schedule = schedule_of("a")
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.EstimatorReady(slot=0))
    schedule.handle(events.SnapshotTaken(slot=0, step=0))
    schedule.handle(events.TrialRaised(slot=0, error="no"))
    assert schedule.handle(events.Measured(slot=0, snapshot=snapshot("a", 0))) == []
    assert schedule.takes_snapshots


def test_trainers_are_held_back_while_too_many_snapshots_are_in_flight() -> None:
    schedule = schedule_of("a", max_snapshots=2)
    schedule.handle(events.TrainerReady(slot=0))
    assert schedule.takes_snapshots
    schedule.handle(events.SnapshotTaken(slot=0, step=0))
    assert schedule.takes_snapshots
    schedule.handle(events.SnapshotTaken(slot=0, step=1))
    assert not schedule.takes_snapshots


def test_one_snapshot_larger_than_the_bound_is_still_let_through() -> None:
    schedule = schedule_of("a", max_snapshot_bytes=10)
    schedule.handle(events.TrainerReady(slot=0))
    assert schedule.takes_snapshots
    schedule.handle(events.SnapshotTaken(slot=0, step=0, nbytes=1000))
    assert not schedule.takes_snapshots


def test_a_stop_starts_nothing_more_and_ends_when_all_that_ended_is_committed() -> None:
    schedule = schedule_of("a", "b")
    schedule.handle(events.TrainerReady(slot=0))
    assert schedule.handle(events.StopRequested()) == [events.StopTrainer(slot=0)]
    assert not schedule.finished
    ended = schedule.handle(events.SegmentEnded(slot=0, stop=7, outcome="stopped"))
    assert ended == [events.Commit(segment=segment("a"))]
    assert not schedule.finished
    assert schedule.handle(events.Committed(segment=segment("a"))) == []
    assert schedule.finished
    assert schedule._courses.keys() == {"a", "b"}


def test_very_short_trials_are_handed_out_in_batches_that_shrink_towards_the_end() -> None:
    schedule = schedule_of(*(f"t{i:02}" for i in range(41)))
    assert len(schedule.handle(events.TrainerReady(slot=0))) == 1
    sizes = []
    while not schedule.finished:
        trial = schedule.trial_on(0)
        if trial is None:
            break
        attempt = segment(trial)
        for command in schedule.handle(events.SegmentEnded(slot=0, stop=1, outcome="done", seconds=0.01)):
            if isinstance(command, events.StartTrials):
                sizes.append(len(command.starts))
        schedule.handle(events.Committed(segment=attempt))
    assert schedule.finished
    assert sizes == [20, 10, 5, 2, 1, 1, 1]


def test_long_trials_are_handed_out_one_by_one() -> None:
    schedule = schedule_of("a", "b", "c", "d", "e")
    schedule.handle(events.TrainerReady(slot=0))
    commands = schedule.handle(events.SegmentEnded(slot=0, stop=1, outcome="done", seconds=3.0))
    assert commands[-1] == start(0, "b")


def test_what_a_dead_trainer_had_not_begun_goes_back_to_the_front_unharmed() -> None:
    schedule = schedule_of(*"abcdefgh", max_attempts=1)
    schedule.handle(events.TrainerReady(slot=0))
    batch = schedule.handle(events.SegmentEnded(slot=0, stop=1, outcome="done", seconds=0.01))[-1]
    assert isinstance(batch, events.StartTrials)
    assert [each.trial for each in batch.starts] == ["b", "c", "d"]
    died = schedule.handle(events.TrainerDied(slot=0, error="killed"))
    given_up = [command.trial for command in died if isinstance(command, events.GiveUp)]
    assert given_up == ["b"], "only the trial at hand has failed"
    again = schedule.handle(events.TrainerReady(slot=0))[-1]
    assert isinstance(again, events.StartTrials)
    assert again.starts[0] == events.Start(trial="c", attempt=2, step=0)


def test_a_spoiled_trainer_is_replaced_before_its_next_trial_and_what_it_had_not_begun_waits_at_the_front() -> None:
    schedule = schedule_of(*"abcdefgh", max_attempts=2)
    schedule.handle(events.TrainerReady(slot=0))
    batch = schedule.handle(events.SegmentEnded(slot=0, stop=1, outcome="done", seconds=0.01))[-1]
    assert isinstance(batch, events.StartTrials)
    assert [each.trial for each in batch.starts] == ["b", "c", "d"]
    done = schedule.handle(events.SegmentEnded(slot=0, stop=1, outcome="done", seconds=0.01, spoiled=True))
    assert done == [events.Abandon(slot=0), events.Commit(segment=segment("b"))]
    again = schedule.handle(events.TrainerReady(slot=0))[-1]
    assert isinstance(again, events.StartTrials)
    assert again.starts[0] == events.Start(trial="c", attempt=2, step=0)
    raised = schedule.handle(events.TrialRaised(slot=0, error="no", spoiled=True))
    assert raised[0] == events.Abandon(slot=0)
    assert not any(isinstance(command, events.StartTrials) for command in raised), "not on what is being ended"
    assert events.NoteFailure(trial="c", attempt=2, kind="raised", error="no") in raised


def test_a_trial_that_a_gpu_had_no_memory_for_is_tried_once_more_without_a_charge() -> None:
    schedule = schedule_of("a", max_attempts=1)
    schedule.handle(events.TrainerReady(slot=0))
    again = schedule.handle(events.TrialRaised(slot=0, error="no memory", short_of_memory=True))
    assert again[-1] == events.StartTrials(slot=0, starts=(events.Start(trial="a", attempt=2, step=0),))
    assert not any(isinstance(command, events.NoteFailure) for command in again)
    given_up = schedule.handle(events.TrialRaised(slot=0, error="no memory", short_of_memory=True))
    assert given_up[-1] == events.GiveUp(trial="a", attempt=2, kind="raised", error="no memory")


def test_a_spoiled_trainer_is_not_replaced_once_the_sweep_stops() -> None:
    schedule = schedule_of("a", "b")
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.StopRequested())
    ended = schedule.handle(events.SegmentEnded(slot=0, stop=1, outcome="done", spoiled=True))
    assert ended == [events.RetireTrainer(slot=0), events.Commit(segment=segment("a"))]


def test_a_spoiled_estimator_is_replaced_before_its_next_snapshot() -> None:
    schedule = schedule_of("a")
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.EstimatorReady(slot=0))
    for step in (0, 1):
        schedule.handle(events.SnapshotTaken(slot=0, step=step))
    replaced = [events.RetireEstimator(slot=0), events.ReplaceEstimator(slot=0)]
    assert schedule.handle(events.Measured(slot=0, snapshot=snapshot("a", 0), spoiled=True)) == replaced
    second = [events.Measure(slot=0, snapshot=snapshot("a", 1))]
    assert schedule.handle(events.EstimatorReady(slot=0)) == second
    failed = events.MeasureRaised(slot=0, snapshot=snapshot("a", 1), error="no", spoiled=True)
    assert schedule.handle(failed) == replaced
    assert schedule.handle(events.EstimatorReady(slot=0)) == second


class World:
    """Workers that obey the schedule and fail at random; holds what has become durable."""

    def __init__(self, trials: int, draw: st.DataObject) -> None:
        self.draw = draw
        self.schedule = Schedule({str(i): Progress() for i in range(trials)}, max_attempts=1000, max_snapshots=3)
        self.committed: dict[str, int] = {str(i): 0 for i in range(trials)}
        self.ended: set[str] = set()
        self.training: dict[int, tuple[str, int, int]] = {}
        self.measuring: dict[int, SnapshotId] = {}
        self.commits: list[tuple[SegmentId, int]] = []
        self.stops: dict[SegmentId, tuple[int, str | None]] = {}
        self.current: dict[int, SegmentId] = {}
        self.queues: dict[int, deque[events.Start]] = {}
        self.idle: list[events.Event] = [events.TrainerReady(slot=s) for s in range(2)]
        self.idle += [events.EstimatorReady(slot=s) for s in range(2)]

    def obey(self, event: events.Event) -> None:
        for command in self.schedule.handle(event):
            match command:
                case events.StartTrials(slot=slot, starts=starts):
                    for start in starts:
                        assert start.step == self.committed[start.trial], "resumes where it was committed"
                        assert start.trial not in self.busy(), "one trainer a trial"
                    self.queues[slot] = deque(starts)
                    self.begin_next(slot)
                case events.Measure(slot=slot, snapshot=taken):
                    assert slot not in self.measuring, "one snapshot an estimator"
                    self.measuring[slot] = taken
                case events.Commit(segment=done):
                    self.commits.append((done, self.stops[done][0]))
                case events.Abandon(slot=slot) | events.ReplaceTrainer(slot=slot):
                    self.training.pop(slot, None)
                    self.queues.pop(slot, None)
                    self.idle.append(events.TrainerReady(slot=slot))
                case events.RetireEstimator(slot=slot):
                    assert slot not in self.measuring, "it has delivered"
                case events.ReplaceEstimator(slot=slot):
                    self.idle.append(events.EstimatorReady(slot=slot))
                case _:
                    pass

    def busy(self) -> set[str]:
        return {t for t, _, _ in self.training.values()} | {s.trial for q in self.queues.values() for s in q}

    def begin_next(self, slot: int) -> None:
        self.training.pop(slot, None)
        if self.queues[slot]:
            trial, attempt, step = self.queues[slot].popleft()
            self.training[slot] = (trial, attempt, step)
            self.current[slot] = SegmentId(trial, attempt, 0)

    def is_spoiled(self) -> bool:
        return self.draw.draw(st.sampled_from([False, False, True]))

    def end_attempt(self, slot: int, *, spoiled: bool) -> None:
        """A trainer goes on with its next trial, unless it must not."""
        if spoiled:
            del self.training[slot]
            del self.queues[slot]
        else:
            self.begin_next(slot)

    def step(self) -> None:
        moves = []
        if self.idle:
            moves.append("up")
        if self.training and self.schedule.takes_snapshots:
            moves += ["snapshot", "checkpoint", "end", "raise", "die"]
        if self.measuring:
            moves += ["measured", "measured", "estimator dies", "lost"]
        if self.commits:
            moves.append("commit")
        move = self.draw.draw(st.sampled_from(moves))
        trainer = self.draw.draw(st.sampled_from(sorted(self.training))) if self.training else -1
        estimator = self.draw.draw(st.sampled_from(sorted(self.measuring))) if self.measuring else -1
        match move:
            case "up":
                self.obey(self.idle.pop(0))
            case "snapshot":
                trial, attempt, at = self.training[trainer]
                self.training[trainer] = (trial, attempt, at + 1)
                self.obey(events.SnapshotTaken(slot=trainer, step=at))
            case "checkpoint" | "end":
                trial, attempt, at = self.training[trainer]
                outcome = "done" if move == "end" else None
                done = self.current[trainer]
                self.stops[done] = (at, outcome)
                spoiled = move == "end" and self.is_spoiled()
                if outcome:
                    self.end_attempt(trainer, spoiled=spoiled)
                else:
                    self.current[trainer] = done._replace(number=done.number + 1)
                seconds = self.draw.draw(st.sampled_from([0.01, 0.02]))
                self.obey(events.SegmentEnded(slot=trainer, stop=at, outcome=outcome, seconds=seconds, spoiled=spoiled))
            case "raise":
                spoiled = self.is_spoiled()
                self.end_attempt(trainer, spoiled=spoiled)
                self.obey(events.TrialRaised(slot=trainer, error="raised", spoiled=spoiled))
            case "die":
                del self.training[trainer]
                del self.queues[trainer]
                self.obey(events.TrainerDied(slot=trainer, error="died"))
            case "measured":
                taken, spoiled = self.measuring.pop(estimator), self.is_spoiled()
                self.obey(events.Measured(slot=estimator, snapshot=taken, spoiled=spoiled))
            case "estimator dies":
                del self.measuring[estimator]
                self.obey(events.EstimatorDied(slot=estimator, error="died"))
            case "lost":
                taken = self.measuring.pop(estimator)
                self.obey(events.SnapshotLost(slot=estimator, snapshot=taken, error="lost"))
            case "commit":
                done, stop = self.commits.pop(0)
                assert stop >= self.committed[done.trial], "commits of a trial go forward"
                assert done.trial not in self.ended, "nothing follows the end"
                self.committed[done.trial] = stop
                if self.stops[done][1]:
                    self.ended.add(done.trial)
                self.obey(events.Committed(segment=done))


@settings(max_examples=200, deadline=None)
@given(draw=st.data(), trials=st.integers(1, 12))
def test_whatever_dies_every_trial_is_resolved_once_and_in_order(draw: st.DataObject, trials: int) -> None:
    world = World(trials, draw)
    for _ in range(100):
        if world.schedule.finished:
            break
        world.step()
    # From here on nothing fails any more: the schedule must come to its end.
    for _ in range(1000):
        if world.schedule.finished:
            break
        if world.idle:
            world.obey(world.idle.pop(0))
        elif world.commits:
            world.draw = _Always("commit")
            world.step()
        elif world.measuring:
            world.draw = _Always("measured")
            world.step()
        else:
            world.draw = _Always("end")
            world.step()
    assert world.schedule.finished
    assert world.ended == set(world.committed)
    assert world.schedule.takes_snapshots, "no snapshot is left in flight"


class _Always:
    """Draws one move, and the first of anything else."""

    def __init__(self, move: str) -> None:
        self.move = move

    def draw(self, strategy: st.SearchStrategy[object]) -> object:
        elements = strategy.elements  # type: ignore[attr-defined]
        return self.move if self.move in elements else elements[0]


def test_trials_that_run_side_by_side_are_handed_out_in_shares_and_never_mixed_with_others() -> None:
    schedule = Schedule({name: Progress() for name in "abcdxyz"}, side_by_side="abcdx", share=3)
    starts = [c.starts for slot in range(3) for c in schedule.handle(events.TrainerReady(slot=slot))]
    assert [[start.trial for start in batch] for batch in starts] == [["a", "b", "c"], ["d", "x"], ["y"]]


def test_a_pool_grows_by_slots_that_are_free_and_never_beyond_the_trials_that_wait() -> None:
    schedule = schedule_of("a", "b", "c")
    replace, estimator = events.ReplaceTrainer, events.ReplaceEstimator
    assert schedule.handle(events.RoomChanged(trainers=1, estimators=1)) == [replace(slot=0), estimator(slot=0)]
    schedule.handle(events.TrainerReady(slot=0))
    grown = schedule.handle(events.RoomChanged(trainers=9, estimators=2))
    assert grown == [replace(slot=1), estimator(slot=1), replace(slot=2)]


def test_workers_of_both_kinds_are_asked_for_in_turn_so_that_they_come_to_share_each_gpu() -> None:
    asked = schedule_of("a", "b").handle(events.RoomChanged(trainers=2, estimators=4))
    kinds = ["trainer" if isinstance(command, events.ReplaceTrainer) else "estimator" for command in asked]
    assert kinds == ["trainer", "estimator", "estimator"] * 2


def test_nodes_that_come_or_go_change_how_many_bytes_may_be_in_flight() -> None:
    schedule = schedule_of("a")
    schedule.handle(events.RoomChanged(trainers=1, estimators=1, snapshot_bytes=10))
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.SnapshotTaken(slot=0, step=0, nbytes=10))
    assert not schedule.takes_snapshots
    schedule.handle(events.RoomChanged(trainers=1, estimators=1))
    assert not schedule.takes_snapshots
    schedule.handle(events.RoomChanged(trainers=1, estimators=1, snapshot_bytes=20))
    assert schedule.takes_snapshots


def test_room_for_more_estimators_lets_more_snapshots_be_in_flight_and_for_fewer_fewer() -> None:
    schedule = schedule_of("a", max_snapshots=2)
    schedule.handle(events.RoomChanged(trainers=1, estimators=1))
    schedule.handle(events.TrainerReady(slot=0))
    for step in range(2):
        schedule.handle(events.SnapshotTaken(slot=0, step=step, nbytes=1))
    assert not schedule.takes_snapshots
    schedule.handle(events.RoomChanged(trainers=1, estimators=2))
    assert schedule.takes_snapshots
    schedule.handle(events.RoomChanged(trainers=1, estimators=1))
    assert not schedule.takes_snapshots


def test_a_pool_shrinks_by_those_that_are_not_up_then_idle_ones_and_a_retired_trial_goes_on_uncharged() -> None:
    schedule = schedule_of("a", "b", max_attempts=1)
    schedule.handle(events.RoomChanged(trainers=2, estimators=0))
    schedule.handle(events.TrainerReady(slot=1))
    assert schedule.handle(events.RoomChanged(trainers=1, estimators=0)) == [events.RetireTrainer(slot=0)]
    assert schedule.handle(events.RoomChanged(trainers=2, estimators=0)) == [events.ReplaceTrainer(slot=0)]
    assert schedule.handle(events.TrainerReady(slot=0)) == [start(0, "b")]
    retired = schedule.handle(events.RoomChanged(trainers=1, estimators=0))
    assert retired == [events.RetireTrainer(slot=1), events.Discard(segment=segment("a"))]
    # The trial waits in front of others, and one failure would have been its last.
    again = schedule.handle(events.TrialRaised(slot=0, error="broken"))
    assert [type(command) for command in again] == [events.Discard, events.GiveUp, events.StartTrials]
    assert again[-1] == start(0, "a", attempt=2)


def test_a_trial_of_a_retired_trainer_waits_until_what_it_finished_is_committed() -> None:
    schedule = schedule_of("a", "b")
    schedule.handle(events.RoomChanged(trainers=2, estimators=0))
    for slot in (0, 1):
        schedule.handle(events.TrainerReady(slot=slot))
    schedule.handle(events.SegmentEnded(slot=1, stop=10, outcome=None))
    retired = schedule.handle(events.RoomChanged(trainers=1, estimators=0))
    assert retired == [events.RetireTrainer(slot=1), events.Discard(segment=segment("b", number=1))]
    schedule.handle(events.SegmentEnded(slot=0, stop=20, outcome="done"))
    assert schedule.handle(events.Committed(segment=segment("b"))) == [start(0, "b", attempt=2, step=10)]


def test_the_snapshot_of_a_retired_estimator_is_measured_by_another() -> None:
    schedule = schedule_of("a")
    schedule.handle(events.RoomChanged(trainers=1, estimators=2))
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.EstimatorReady(slot=1))
    schedule.handle(events.SnapshotTaken(slot=0, step=0))
    # Slot 0 is not up, and goes first.
    assert schedule.handle(events.RoomChanged(trainers=1, estimators=1)) == [events.RetireEstimator(slot=0)]
    assert schedule.handle(events.RoomChanged(trainers=1, estimators=0)) == [events.RetireEstimator(slot=1)]
    assert schedule.handle(events.RoomChanged(trainers=1, estimators=1)) == [events.ReplaceEstimator(slot=0)]
    measure = [events.Measure(slot=0, snapshot=snapshot("a", 0))]
    assert schedule.handle(events.EstimatorReady(slot=0)) == measure


def test_a_sweep_that_is_stopping_does_not_grow() -> None:
    schedule = schedule_of("a", "b")
    schedule.handle(events.RoomChanged(trainers=1, estimators=0))
    schedule.handle(events.TrainerReady(slot=0))
    schedule.handle(events.StopRequested())
    assert schedule.handle(events.RoomChanged(trainers=2, estimators=1)) == []


def test_a_trial_that_gives_other_rows_is_given_up_at_once_and_its_trainer_ended() -> None:
    schedule = Schedule({"a": Progress(committed_step=10), "b": Progress()}, max_attempts=3)
    schedule.handle(events.TrainerReady(slot=0))
    assert schedule.handle(events.TrialDiffered(slot=0, error="other rows")) == [
        events.Abandon(slot=0),
        events.Discard(segment=segment("a")),
        events.GiveUp(trial="a", attempt=1, kind="differed", error="other rows"),
    ]
    assert schedule.handle(events.TrainerReady(slot=0)) == [start(0, "b")]
    assert schedule._courses.keys() == {"b"}

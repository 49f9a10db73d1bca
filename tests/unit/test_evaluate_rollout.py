from __future__ import annotations

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.evaluate.rollout import black_image, evaluate_policy, with_instruction
from cyclemimic.evaluate.statistics import mcnemar, success_row, wilson
from cyclemimic.types import ActionChunk, ActionSpace, Axis, CameraSpec, Observation, Task, WorldStep

SPACE = ActionSpace(name="line", axes=(Axis(name="x", unit="m", low=-1, high=1),), rate_hz=5)


class Line:
    """Walk to `seed` metres; the picture's first pixel says how far is left."""

    name, bodies, skills, action_space = "line", ("dot",), ("walk", "stumble"), SPACE
    camera = CameraSpec(name="eye", height_px=2, width_px=2)
    max_steps = 5

    def reset(self, task: Task) -> Observation:
        if task.seed < 0:
            raise InputError("Task.seed", expected=">= 0", got=str(task.seed), remedy="Use another.")
        self.task, self.left, self.steps = task, task.seed, 0
        return self._observe()

    def step(self, action: np.ndarray) -> WorldStep:
        if self.task.skill == "stumble" and self.steps == 1:
            raise FloatingPointError("the simulator diverged")
        self.left -= round(float(action[0]))
        self.steps += 1
        done = self.left == 0
        return WorldStep(observation=self._observe(), success=done, truncated=not done and self.steps >= 5)

    def _observe(self) -> Observation:
        picture = np.zeros((2, 2, 3), np.uint8)
        picture[0, 0, 0] = self.left
        return Observation(images={"eye": picture}, instruction="walk")

    def expert_action(self) -> np.ndarray:
        return np.array([1], np.float32)

    def state(self) -> np.ndarray:
        return np.array([self.left, self.steps], np.float64)

    def restore(self, state: np.ndarray) -> Observation:
        self.left, self.steps = int(state[0]), int(state[1])
        return self._observe()


class Walker:
    """Walks if it sees that something is left and was told to."""

    def __init__(self, sick_at: int | None = None, fault: type[Exception] = RuntimeError) -> None:
        self.sick_at, self.fault, self.batches = sick_at, fault, []

    def act_batch(self, observations: list[Observation]) -> list[ActionChunk]:
        self.batches.append(len(observations))
        chunks = []
        for seen in observations:
            left = int(seen.images["eye"][0, 0, 0])
            if left == self.sick_at:
                raise self.fault("NaN in the weights")
            go = float(left > 0 and seen.instruction == "walk")
            chunks.append(ActionChunk(actions=np.full((3, 1), go, np.float32), space=SPACE))
        return chunks


def tasks(*seeds: int, skill: str = "walk") -> list[Task]:
    return [Task(body="dot", skill=skill, seed=s) for s in seeds]


def test_success_failure_and_error_are_apart() -> None:
    todo = [*tasks(1, 4, 5, 9, -1), *tasks(3, skill="stumble")]
    result = evaluate_policy(Line, Walker(), todo, chunk_steps=2, batch=4)
    assert [o.success for o in result.outcomes] == [True, True, True, False, False, False]
    assert (result.successes, result.failures, result.errors) == (3, 1, 2)
    assert [o.task for o in result.outcomes] == todo and [o.steps for o in result.outcomes] == [1, 4, 5, 5, 0, 1]
    assert "seed" in result.error_messages[0] and "diverged" in result.error_messages[1]
    assert result.per_skill()["walk"].n == 5 and result.per_skill()["stumble"].errors == 1
    row = result.row()
    assert (row.n, row.errors, row.rate) == (6, 2, 0.5) and row.low < 0.5 < row.high


def test_outcomes_do_not_depend_on_the_batch_and_the_policy_sees_one() -> None:
    todo = tasks(1, 2, 3, 4, 5, 6, 7)
    wide = Walker()
    one, many = (evaluate_policy(Line, p, todo, chunk_steps=3, batch=b) for p, b in ((Walker(), 1), (wide, 5)))
    assert one == many
    assert wide.batches[0] == 5


def test_one_sick_episode_does_not_hurt_its_neighbours() -> None:
    result = evaluate_policy(Line, Walker(sick_at=2), tasks(1, 2, 3), chunk_steps=3, batch=3)
    assert [o.success for o in result.outcomes] == [True, False, True] and result.errors == 1


def test_faults_of_ours_propagate() -> None:
    with pytest.raises(KeyError):
        evaluate_policy(Line, Walker(sick_at=2, fault=KeyError), tasks(1, 2), chunk_steps=3)


def test_controls_change_what_the_policy_sees_and_not_the_world() -> None:
    blind = evaluate_policy(
        Line, Walker(), tasks(2, 3), chunk_steps=3, instruct=lambda _, o: black_image(o), films_per_skill=1
    )
    deaf = evaluate_policy(
        Line, Walker(), tasks(2, 3), chunk_steps=3, instruct=lambda _, o: with_instruction(o, "stay")
    )
    assert blind.successes == deaf.successes == 0
    film = blind.films()[0].film
    assert len(blind.films()) == 1 and film is not None and film[0, 0, 0, 0] == 2  # the film shows the world


def test_films_begin_at_the_start_and_end_at_the_end() -> None:
    result = evaluate_policy(Line, Walker(), tasks(4, 4), chunk_steps=3, films_per_skill=1)
    film = result.outcomes[0].film
    assert film is not None and film[:, 0, 0, 0].tolist() == [4, 1, 0] and result.outcomes[1].film is None


def test_wilson_by_known_values() -> None:
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 0) == (0, 1) and success_row(0, 0).n == 0
    with pytest.raises(InputError):
        wilson(3, 2)


def test_mcnemar_is_the_exact_binomial() -> None:
    first, second = [True] * 5 + [False, True], [False] * 5 + [False, True]
    result = mcnemar(first, second)
    assert (result.only_first, result.only_second) == (5, 0) and result.p == pytest.approx(2 / 32)
    assert mcnemar(first, first).p == 1
    assert mcnemar([True, False], [False, True]).p == 1
    with pytest.raises(InputError):
        mcnemar([True], [])
    a, b = (evaluate_policy(Line, Walker(), tasks(s), chunk_steps=3) for s in (1, 2))
    assert a.against(a).p == 1
    with pytest.raises(InputError, match="same tasks"):
        a.against(b)

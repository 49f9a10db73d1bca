"""From demonstrations to a policy that acts: learn one skill by imitation and let it act, with two controls.

    python examples/04_act.py [FOLDER]

There are no latent actions here, so that it runs in seconds: the same code without labels is behaviour cloning.
`cyclemimic finetune --init PRETRAINED --labels LABELS` adds them.
"""

import sys
import tempfile
from pathlib import Path

from cyclemimic.data.sources.film import FilmSource
from cyclemimic.data.writers.film import film
from cyclemimic.evaluate.rollout import black_image, evaluate_policy, with_instruction
from cyclemimic.policy.network import NetworkConfig
from cyclemimic.policy.policy import LatentActionPolicy
from cyclemimic.policy.prismatic import PrismaticConfig
from cyclemimic.recipes.stations import run_finetune
from cyclemimic.train.stage3_finetune import FinetuneConfig
from cyclemimic.train.trainee import OptimConfig
from cyclemimic.types import Task
from cyclemimic.worlds.drawn import DrawnWorld

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
world = DrawnWorld()
film(world, [Task(body="crane", skill="reach", seed=seed) for seed in range(60)], folder / "demonstrations")

config = FinetuneConfig(
    network=NetworkConfig(backbone=PrismaticConfig(image_px=32, width=48, layers=1, mlp_width=96)),
    optim=OptimConfig(steps=300, learning_rate=3e-3),
    batch=32,
)
run = run_finetune(
    FilmSource(folder / "demonstrations"),
    config,
    folder / "policy",
    body="crane",
    skills=("reach",),
    per_skill=60,
    labels=None,
    init=None,
    threads=1,
)

# What was saved is all that a robot needs: weights, words, camera, units and limits of the actions.
policy = LatentActionPolicy.load(run)
seen = world.reset(Task(body="crane", skill="reach", seed=1_000_000))
chunk = policy.act(seen)
print(
    f"{seen.instruction!r}: {chunk.actions.round(3).tolist()} as {[f'{a.name} [{a.unit}]' for a in chunk.space.axes]}"
)

# In closed loop, from starts that it has never seen; then without a picture, and asked for the other disc.
tasks = [Task(body="crane", skill="reach", seed=1_000_000 + i) for i in range(40)]
shown = {
    "as it is": None,
    "a black picture": lambda task, seen: black_image(seen),
    "the other disc asked for": lambda task, seen: with_instruction(seen, world.swapped_instruction(task)),
}
for name, instruct in shown.items():
    result = evaluate_policy(DrawnWorld, policy, tasks, chunk_steps=2, instruct=instruct)
    print(f"{name:25} {result.row()}")

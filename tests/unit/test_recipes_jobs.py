"""Commands run in an order that respects what they need; a failed one stops all, and a later run goes on."""

import os
import subprocess
import sys
import time

import pytest

from cyclemimic.recipes.demo import demo_jobs, plan
from cyclemimic.recipes.jobs import Job, JobFailedError, Jobs


def job(name, *arguments, after=()):
    return Job(name=name, arguments=arguments or ("print()",), seconds=1, says=name, after=after)


PYTHON = (sys.executable, "-c")


def test_all_jobs_run_once_and_are_not_run_again(tmp_path, capsys):
    jobs = [job("a"), job("b", after=("a",))]
    Jobs(jobs=jobs, folder=tmp_path, command=PYTHON).run()
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")] == ["- a", "- b"]
    Jobs(jobs=jobs, folder=tmp_path, command=PYTHON).run()
    assert "- a" not in capsys.readouterr().out


def test_a_failed_job_shows_the_end_of_what_it_said(tmp_path):
    jobs = [job("bad", "raise SystemExit('no such folder: nowhere')"), job("next", after=("bad",))]
    with pytest.raises(JobFailedError, match="nowhere"):
        Jobs(jobs=jobs, folder=tmp_path / "jobs", command=PYTHON).run()
    assert not (tmp_path / "jobs" / "done" / "next.json").exists()


def test_a_spent_budget_asks_what_runs_to_end_and_a_later_run_goes_on(tmp_path):
    told, ended = tmp_path / "told", []
    waits = f"import pathlib, time; p = pathlib.Path({str(told)!r}); p.exists() or (p.touch(), time.sleep(60))"
    jobs = [job("a"), job("long", waits, after=("a",)), job("last", after=("long",))]
    first = Jobs(
        jobs=jobs, folder=tmp_path / "jobs", command=PYTHON, budget_s=2.0, ended=lambda j: ended.append(j.name)
    )
    began_s = time.monotonic()
    first.run()
    assert time.monotonic() - began_s < 30 and told.exists()
    assert first.left == ("long", "last") and ended == ["a"] and first.is_done(jobs[0])
    again = Jobs(jobs=jobs, folder=tmp_path / "jobs", command=PYTHON)
    again.run()
    assert again.left == ()


def test_where_one_may_fail_all_that_does_not_need_it_is_run(tmp_path):
    jobs = [
        job("bad", "raise SystemExit('not finite')"),
        job("next", after=("bad",)),
        job("other"),
        job("last", after=("other",)),
    ]
    run = Jobs(jobs=jobs, folder=tmp_path, command=PYTHON, keep_going=True)
    run.run()
    assert run.left == ("bad", "next") and [failure.job.name for failure in run.failures] == ["bad"]
    assert "not finite" in str(run.failures[0])


@pytest.mark.parametrize("quick", [True, False])
def test_the_demo_never_asks_for_what_no_earlier_command_makes(tmp_path, quick):
    jobs = demo_jobs(tmp_path, plan(quick))
    names = [j.name for j in jobs]
    assert len(set(names)) == len(names)
    for number, j in enumerate(jobs):
        assert set(j.after) <= set(names[:number]), j.name


def test_compared_policies_differ_only_in_where_they_start(tmp_path):
    jobs = {j.name: j.arguments for j in demo_jobs(tmp_path, plan(False))}

    def flags(name):
        words = jobs[name]
        return dict(zip(words[1::2], words[2::2], strict=True))

    p = plan(False)
    scratch, full = flags("scratch"), flags("full-5")
    assert int(scratch.pop("--steps")) == p.pretrain_steps + int(full.pop("--steps"))
    full.pop("--init")
    assert float(scratch.pop("--learning-rate")) == 2e-3
    assert {k: v for k, v in scratch.items() if k != "--run"} == {k: v for k, v in full.items() if k != "--run"}
    ac3, genie = flags("ac3"), flags("genie")
    differing = {k for k in ac3 if ac3[k] != genie[k]}
    assert differing == {"--run", "--objective"}


def test_a_terminated_run_takes_its_commands_along(tmp_path):
    """Left behind, they would go on writing where the next run begins."""
    script = (
        "import sys; from pathlib import Path; from cyclemimic.recipes.jobs import Job, Jobs\n"
        "from cyclemimic.train.endings import RunInterruptedError\n"
        "code = f'import os, time; open({sys.argv[1]!r}, chr(119)).write(str(os.getpid())); time.sleep(60)'\n"
        "job = Job(name='long', arguments=(code,), seconds=1, says='long')\n"
        "try:\n    Jobs(jobs=[job], folder=Path(sys.argv[2]), command=(sys.executable, '-c')).run()\n"
        "except RunInterruptedError as ended:\n    sys.exit(ended.exit_code)\n"
    )
    told = tmp_path / "pid"
    run = subprocess.Popen([sys.executable, "-c", script, str(told), str(tmp_path / "jobs")])
    for _ in range(600):
        if told.exists() and told.read_text():
            break
        time.sleep(0.1)
    run.terminate()
    assert run.wait(20) == 75
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)

"""Every command on a real run of the scaffold's plugin."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest


@pytest.fixture
def ran(orchestrate, demo, monkeypatch):
    """The demo recipe has run once, here and without tracking."""
    monkeypatch.setenv("ORCHESTRATOR_NO_TRACKING", "1")
    done = orchestrate("run", "recipe=demo", "--executor", "local", "--quiet", "--json")
    assert done.code == 0, done.err
    return json.loads(done.out.splitlines()[-1])


def test_run_json_is_one_object_as_documented(ran):
    """DESIGN's object, field by field."""
    assert list(ran) == ["run", "status", "mlflow_run_id", "report", "seconds", "stages"]
    assert ran["status"] == "succeeded"
    assert Path(ran["report"]).is_file()
    first, second = ran["stages"]
    assert list(first) == ["name", "axes", "label", "status", "key", "seconds", "outputs", "metrics"]
    assert [first["label"], second["label"]] == ["counts/top:3", "counts/top:5"]
    assert [first["axes"], second["axes"]] == [{"top": 3}, {"top": 5}]
    assert {first["status"], second["status"]} == {"executed"}
    assert list(first["outputs"]["result"]) == ["type", "digest", "path"]
    assert Path(first["outputs"]["result"]["path"]).is_dir()


def test_a_second_run_executes_nothing(ran, orchestrate):
    """Every stage is cached and keeps its key, outputs and metrics."""
    again = json.loads(
        orchestrate("run", "recipe=demo", "--executor", "local", "--quiet", "--json").out.splitlines()[-1]
    )

    assert [stage["status"] for stage in again["stages"]] == ["cached", "cached"]
    for name in ("key", "outputs", "metrics"):
        assert [stage[name] for stage in again["stages"]] == [stage[name] for stage in ran["stages"]]


def test_run_without_json_ends_with_a_summary_and_real_suggestions(ran, orchestrate):
    """Counts, the report's place, and commands that can be pasted."""
    done = orchestrate("run", "recipe=demo", "--executor", "local", "--quiet")

    assert "demo succeeded in" in done.out
    assert "2 cached" in done.out
    assert "report.html" in done.out
    suggested = [line.strip().split()[1:] for line in done.out.splitlines() if line.startswith("  orchestrate")]
    assert ["plan", "recipe=demo"] in suggested
    for words in suggested:
        if words[0] in ("plan", "show", "why"):
            assert orchestrate(*words).code == 0


def test_plan_shows_actions_reasons_axes_and_the_count(ran, orchestrate):
    """What is there is cached, what would be new runs."""
    text = orchestrate("plan", "recipe=demo", "stages.counts.each.top=[3,4]").out

    rows = {line.split()[1]: line.split()[0] for line in text.splitlines() if "counts/top" in line}
    assert rows == {"counts/top:3": "cached", "counts/top:4": "run"}
    assert "stages.counts.each" in text
    assert "1 to run" in text


def test_plan_json_has_one_row_for_each_name(ran, orchestrate):
    """The fields are those that the documentation promises."""
    rows = json.loads(orchestrate("plan", "recipe=demo", "--json").out)

    assert [list(row) for row in rows] == [["name", "axes", "label", "spec", "key", "action", "reason"]] * 2
    assert {row["action"] for row in rows} == {"cached"}
    assert [row["key"] for row in rows] == [stage["key"] for stage in ran["stages"]]


def test_plan_of_a_sweep_merges_its_points(orchestrate, demo):
    """What points share is one row with two names."""
    rows = json.loads(orchestrate("plan", "recipe=demo", "-m", "stages.counts.each.top=[3],[3,5]", "--json").out)

    assert len(rows) == 3
    assert len({row["spec"] for row in rows}) == 2


def test_why_names_the_field_with_both_values(ran, orchestrate):
    """Leaf by leaf, from the stored payload."""
    explained = json.loads(orchestrate("why", "counts", "recipe=demo", "stages.counts.each.top=[4]", "--json").out)

    assert [one["action"] for one in explained] == ["run"]
    differences = [(one["path"], one["new"]) for one in explained[0]["differences"]]
    assert differences == [("config.top", 4)]
    assert explained[0]["differences"][0]["old"] in (3, 5)
    text = orchestrate("why", "counts", "recipe=demo", "stages.counts.each.top=[4]").out
    assert "config.top" in text


def test_why_without_a_recipe_takes_the_latest_run(ran, orchestrate):
    """After a change ran, `why STAGE` still names what the change was."""
    assert orchestrate("run", "recipe=demo", "stages.counts.each.top=[4]", "--executor", "local", "--quiet").code == 0

    explained = json.loads(orchestrate("why", "counts", "--json").out)

    assert [(one["label"], one["action"]) for one in explained] == [("counts/top:4", "cached")]
    assert [one["path"] for one in explained[0]["differences"]] == ["config.top"]


def test_show_a_run_a_stage_and_an_artifact(ran, orchestrate):
    """The same result, addressed three ways."""
    run = json.loads(orchestrate("show", "latest", "--json").out)
    assert (run["run"], run["status"], run["recipe"]) == (ran["run"], "succeeded", "demo")
    assert ran["run"] in orchestrate("show", ran["run"][:-2]).out

    (stage,) = json.loads(orchestrate("show", "latest", "counts/top:3", "--json").out)
    assert stage["payload"]["config"]["top"] == 3
    assert "words" in orchestrate("show", "latest", "counts").out

    digest = ran["stages"][0]["outputs"]["result"]["digest"]
    artifact = json.loads(orchestrate("show", digest[:12], "--json").out)
    assert (artifact["type"], artifact["digest"], artifact["made_by"]["uses"]) == ("Table", digest, "demo.word_counts")
    assert "table.parquet" in orchestrate("show", digest[:12]).out


def test_diff_shows_what_differs_and_the_metrics_beside(ran, orchestrate):
    """Equal settings are left out."""
    assert orchestrate("run", "recipe=demo", "stages.counts.each.top=[2]", "--executor", "local", "--quiet").code == 0

    compared = json.loads(orchestrate("diff", ran["run"], "latest", "--json").out)

    assert [row["name"] for row in compared["settings"]] == ["stages.counts.each.top"]
    assert "counts/top:2 words" in [row["name"] for row in compared["metrics"]]
    assert "settings that differ" in orchestrate("diff", ran["run"], "latest").out


def test_report_prints_the_page_of_a_run(ran, orchestrate):
    """One path on one line."""
    assert orchestrate("report").out.strip() == ran["report"]
    assert json.loads(orchestrate("report", ran["run"], "--json").out) == {"run": ran["run"], "report": ran["report"]}


def test_export_copies_an_artifact_that_can_be_written(ran, orchestrate):
    """The copy has the store's bytes and no link to them."""
    source = Path(ran["stages"][0]["outputs"]["result"]["path"]) / "table.parquet"

    done = orchestrate("export", "counts/top:3", "out")

    assert done.code == 0, done.err
    copy = Path("out/table.parquet")
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_ino != source.stat().st_ino
    assert copy.stat().st_mode & stat.S_IWUSR
    assert orchestrate("export", "counts/top:3", "out").code == 2
    assert "pick one" in orchestrate("export", "counts", "elsewhere").err


def test_list_runs_and_artifacts(ran, orchestrate):
    """Newest first, with what they are."""
    runs = json.loads(orchestrate("list", "runs", "--json").out)
    assert [(row["run"], row["status"], row["executed"]) for row in runs] == [(ran["run"], "succeeded", 2)]

    artifacts = json.loads(orchestrate("list", "artifacts", "Table", "--json").out)
    assert {row["digest"] for row in artifacts} == {stage["outputs"]["result"]["digest"] for stage in ran["stages"]}


def test_gc_removes_nothing_without_yes_and_nothing_that_a_run_keeps(ran, orchestrate):
    """A run on disk is a root."""
    dry = orchestrate("gc", "--json")
    assert dry.code == 0, dry.err
    orchestrate("gc", "--yes")

    again = json.loads(
        orchestrate("run", "recipe=demo", "--executor", "local", "--quiet", "--json").out.splitlines()[-1]
    )
    assert [stage["status"] for stage in again["stages"]] == ["cached", "cached"]


def test_list_stages_describes_ports_fields_defaults_and_an_example(orchestrate, demo):
    """What a recipe's author needs, and a line to paste."""
    described = json.loads(orchestrate("list", "stages", "demo.word_counts", "--json").out)

    assert described["outputs"] == [{"name": "result", "type": "Table"}]
    assert described["settings"] == [
        {
            "name": "source",
            "type": "name of a corpus",
            "required": False,
            "default": "demo",
            "doc": "any corpus of any plugin",
        },
        {"name": "top", "type": "int", "required": False, "default": 5, "doc": "how many words to keep"},
    ]
    assert described["example"] == "word_counts: {uses: demo.word_counts, source: demo}"
    text = orchestrate("list", "stages", "demo.word_counts").out
    assert "how many words to keep" in text
    assert described["example"] in text


@pytest.mark.parametrize("what", ["recipes", "stages", "kinds", "components", "plugins", "runs", "artifacts"])
def test_every_list_prints_text_and_json(what, orchestrate, demo):
    """Both forms, empty or not."""
    assert orchestrate("list", what).code == 0
    assert isinstance(json.loads(orchestrate("list", what, "--json").out), list)


def test_the_demo_is_listed_everywhere(orchestrate, demo):
    """A plugin's offers appear beside the built-ins'."""
    assert "demo" in [row["name"] for row in json.loads(orchestrate("list", "recipes", "--json").out)]
    assert "demo.word_counts" in orchestrate("list", "stages").out
    assert "demo" in orchestrate("list", "components", "corpus").out
    plugins = {row["name"]: row for row in json.loads(orchestrate("list", "plugins", "--json").out)}
    assert (plugins["demo"]["status"], plugins["demo"]["stages"], plugins["demo"]["components"]) == ("ok", 1, 1)


def test_doctor_finds_nothing_wrong_here(orchestrate, demo):
    """No error, whatever warnings this machine deserves."""
    done = orchestrate("doctor", "--json")

    rows = {row["what"]: row for row in json.loads(done.out)}
    assert [row for row in rows.values() if row["status"] == "error"] == []
    assert done.code == 0
    assert rows["plugin demo"]["status"] == "ok"


def test_doctor_reports_a_foreign_command_that_shadows_ours(orchestrate, tmp_path, monkeypatch):
    """Another program of that name comes first on PATH."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    script = folder / "orchestrate"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    row = next(row for row in json.loads(orchestrate("doctor", "--json").out) if row["what"] == "command")

    assert row["status"] == "warning"
    assert str(script) in row["detail"]


def test_ui_serves_this_home_on_loopback(ran, orchestrate, home):
    """The command that would be started names our database and 127.0.0.1."""
    (home / "mlflow.db").touch()
    words = orchestrate("ui", "--print", "--port", "5055").out.split()

    assert words[words.index("--backend-store-uri") + 1] == f"sqlite:///{home / 'mlflow.db'}"
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--port") + 1] == "5055"


def test_a_failing_stage_shows_its_log_and_the_command_that_resumes(orchestrate, demo, monkeypatch):
    """The end of stderr is all that one needs."""
    monkeypatch.setenv("ORCHESTRATOR_NO_TRACKING", "1")
    words = demo / "orchestrator_demo" / "words.py"
    words.write_text(
        words.read_text().replace(
            "    counts = Counter(",
            "    print('about to count')\n    raise RuntimeError('the corpus is torn')\n    counts = Counter(",
        )
    )

    done = orchestrate("run", "recipe=demo", "--executor", "local", "--quiet", "--json")

    assert done.code == 1
    assert json.loads(done.out.splitlines()[-1])["status"] == "failed"
    assert "RuntimeError: the corpus is torn" in done.err
    assert "about to count" in done.err
    assert "Traceback" not in done.err.split("  | ")[0]
    assert done.err.rstrip().splitlines()[-1] == "orchestrate run recipe=demo --executor local --quiet --json"

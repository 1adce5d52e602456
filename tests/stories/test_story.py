"""The whole story on the real engine: Prefect, Ray, Parquet, files. Pictures are small, stages are a few lines."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
import transitions
from PIL import Image

pytestmark = pytest.mark.usefixtures("prefect_server", "ray_cluster")

PICTURES = 12


def picture(path, value, size=48):
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = np.linspace(0.8, 1.0, size)[:, None, None] * value
    Image.fromarray((np.broadcast_to(shade, (size, size, 3)) * 255).astype(np.uint8)).save(path)


@pytest.fixture
def archive(tmp_path):
    """Two folders of pictures, a duplicate, a text file, a cut one."""
    folder = tmp_path / "archive"
    for n in range(PICTURES):
        picture(folder / ("a" if n % 2 else "b/c") / f"{n:02}.png", 0.1 + n / 20)
    shutil.copy(folder / "a" / "01.png", folder / "again.png")
    (folder / "letter.jpg").write_text("Dear Sir")
    (folder / "cut.png").write_bytes((folder / "a" / "03.png").read_bytes()[:60])
    return folder


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe file from its stages."""

    def write(*stages, name="story"):
        text = f'name = "{name}"\n' + "".join(f"[[stage]]\n{stage}\n" for stage in (*stages,))
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return str(path)

    return write


DETECT = 'id = "detect_align"\nsettings = { detector = "none" }'
PASTE = 'id = "paste_back"'


def brighten(journal="", amount=0.1, seconds=0.0):
    settings = f'{{ amount = {amount}, seconds = {seconds}, journal = "{journal}" }}'
    return f'id = "brighten"\nuse = "fake_stages:Brighten"\nsettings = {settings}'


def run(archive, workspace, recipe, **more):
    from flows.restore_dataset import restore_dataset

    settings = {"workers": 2, "threads": 1, "retries": 2} | more.pop("settings", {})
    asked = {"source": str(archive), "workspace": str(workspace), "recipe": recipe, "settings": settings} | more
    return restore_dataset(**asked).model_dump(mode="json")


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def hashes(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def illegal_transitions(workspace):
    from infra.ledger.ledger import Ledger
    from infra.storage.storage import Storage

    return transitions.illegal_transitions(Ledger.open(Storage(workspace), create=False))


def test_an_archive_is_restored_accounted_for_and_not_restored_twice(archive, tmp_path, recipe):
    journal, workspace, before = tmp_path / "journal", tmp_path / "ws", hashes(archive)
    story = recipe(DETECT, brighten(journal), PASTE)

    first = run(archive, workspace, story)
    assert first["found"] == PICTURES + 3 == sum(first["outcomes"].values())
    assert first["outcomes"]["restored"] == PICTURES + 1
    assert (first["outcomes"]["skipped"], first["outcomes"]["quarantined"]) == (1, 1)
    assert hashes(archive) == before, "originals are never written to"
    restored = tree(workspace / "restored")
    assert set(restored) == {name for name in tree(archive) if name.split(".")[0] not in ("letter", "cut")}
    bright = np.asarray(Image.open(workspace / "restored/a/01.png")).astype(int)
    assert abs(bright.mean() - np.asarray(Image.open(archive / "a/01.png")).mean() - 25.5) < 1
    assert (workspace / "report/index.html").stat().st_size > 1000
    worked_on = journal.read_text()
    assert len(worked_on.split()) == PICTURES

    second = run(archive, workspace, story)
    assert second["outcomes"] == first["outcomes"]
    assert second["stages"] == {}, "a second run makes no stage call"
    assert journal.read_text() == worked_on
    assert tree(workspace / "restored") == restored, "and touches no output"


def test_a_changed_setting_reruns_that_stage_and_what_follows_only(archive, tmp_path, recipe):
    workspace = tmp_path / "ws"
    first = run(archive, workspace, recipe(DETECT, brighten(), PASTE))
    assert set(first["stages"]) == {"detect_align", "brighten", "paste_back"}
    second = run(archive, workspace, recipe(DETECT, brighten(amount=0.2), PASTE))
    assert set(second["stages"]) == {"brighten", "paste_back"}
    assert abs(gain(archive, workspace) - 51) < 1
    third = run(archive, workspace, recipe(DETECT, brighten(), PASTE))
    assert abs(gain(archive, workspace) - 25.5) < 1, "going back to a setting goes back to its result"
    assert third["stages"]["brighten"]["reused"] == PICTURES


def gain(archive, workspace, name="a/01.png"):
    after, before = (np.asarray(Image.open(root / name)).mean() for root in (workspace / "restored", archive))
    return after - before


def test_a_picture_that_kills_its_worker_is_found_and_its_neighbours_finish(archive, tmp_path, recipe):
    picture(archive / "poison.png", 1.25)  # white: 0.8 * 1.25
    story = recipe(DETECT, brighten(), 'id = "poison"\nuse = "fake_stages:Poison"', PASTE)
    summary = run(archive, tmp_path / "ws", story)
    assert summary["outcomes"]["quarantined"] == 2
    assert summary["reasons"]["killed_worker"] == 1
    assert summary["outcomes"]["restored"] == PICTURES + 1
    assert not (tmp_path / "ws/restored/poison.png").exists()

    assert run(archive, tmp_path / "ws", story)["stages"] == {}, "it is not tried again by itself"
    again = run(archive, tmp_path / "ws", story, retry=True)
    assert again["stages"]["poison"]["failed"] == 1, "but it is when asked"
    assert illegal_transitions(tmp_path / "ws") == {}


def test_memory_that_runs_out_halves_the_batch(archive, tmp_path, recipe):
    story = recipe(DETECT, brighten(), 'id = "hungry"\nuse = "fake_stages:Hungry"', PASTE)
    assert run(archive, tmp_path / "ws", story)["outcomes"]["restored"] == PICTURES + 1


def test_files_that_come_change_and_go_are_noticed(archive, tmp_path, recipe):
    workspace, story = tmp_path / "ws", recipe(DETECT, brighten(), PASTE)
    run(archive, workspace, story)
    (archive / "a/01.png").unlink()
    (archive / "letter.jpg").unlink()
    picture(archive / "a/03.png", 0.9)
    picture(archive / "new.png", 0.42)
    summary = run(archive, workspace, story)
    assert summary["found"] == PICTURES + 2
    assert summary["stages"]["brighten"]["items"] == 2
    shown = np.asarray(Image.open(workspace / "restored/a/03.png")).astype(int)
    assert abs(shown.mean() - np.asarray(Image.open(archive / "a/03.png")).mean() - 25.5) < 1


def test_a_file_that_breaks_takes_its_old_picture_along(archive, tmp_path, recipe):
    workspace, story = tmp_path / "ws", recipe(DETECT, brighten(), PASTE)
    run(archive, workspace, story)
    whole = (archive / "a/05.png").read_bytes()
    (archive / "a/03.png").write_text("no picture any more")
    (archive / "a/05.png").write_bytes(whole[: len(whole) - 40])
    summary = run(archive, workspace, story)
    assert not (workspace / "restored/a/03.png").exists()
    assert not (workspace / "restored/a/05.png").exists()
    assert (workspace / "restored/a/07.png").exists()
    (archive / "a/05.png").write_bytes(whole)
    assert run(archive, workspace, story)["outcomes"]["restored"] == summary["outcomes"]["restored"] + 1
    assert (workspace / "restored/a/05.png").exists()


def test_a_failure_is_tried_again_and_not_remembered_as_a_result(archive, tmp_path, recipe):
    import os

    workspace, story = tmp_path / "ws", recipe(DETECT, brighten(), PASTE)
    run(archive, workspace, recipe(DETECT, brighten(amount=0.3), PASTE, name="first"))
    shutil.rmtree(workspace / "intermediates")  # so that a changed setting has to read the files again
    hidden = archive / "a/01.png"
    stat = hidden.stat()
    data = hidden.read_bytes()
    hidden.write_bytes(data[:-1] + b"\0")  # same size and time: the scan believes it is the same
    os.utime(hidden, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    failed = run(archive, workspace, story)
    assert failed["reasons"].get("changed_while_running") == 2, "the file and its duplicate"
    hidden.write_bytes(data)
    os.utime(hidden, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(archive, workspace, story)["outcomes"]["failed"] == 0


def test_a_folder_restored_that_is_not_ours_is_not_touched(archive, tmp_path, recipe):
    from flows.jobs.data_set import JobError

    mine = tmp_path / "ws/restored/a/01.png"
    picture(mine, 0.5)
    before = mine.read_bytes()
    with pytest.raises(JobError, match="nothing is overwritten"):
        run(archive, tmp_path / "ws", recipe(DETECT, brighten(), PASTE))
    assert mine.read_bytes() == before


@pytest.mark.parametrize("linked", ["", "a"])
def test_a_link_in_the_restored_tree_leads_no_run_to_the_originals(archive, tmp_path, recipe, linked):
    """The tree is exchanged for a link, and a changed recipe would write every file anew."""
    from infra.problems import ForPeople

    workspace, before = tmp_path / "ws", hashes(archive)
    run(archive, workspace, recipe(DETECT, brighten(), PASTE))
    shutil.rmtree(workspace / "restored" / linked)
    (workspace / "restored" / linked).symlink_to(archive / linked)
    with pytest.raises(ForPeople, match=r"through restored.* is a link to .*archive.*originals"):
        run(archive, workspace, recipe(DETECT, brighten(amount=0.2), PASTE))
    assert hashes(archive) == before
    (workspace / "restored" / linked).unlink()
    assert run(archive, workspace, recipe(DETECT, brighten(amount=0.2), PASTE))["outcomes"]["restored"] == PICTURES + 1


def test_a_path_that_is_new_for_a_known_picture_gets_its_file(archive, tmp_path, recipe):
    journal, workspace = tmp_path / "journal", tmp_path / "ws"
    story = recipe(DETECT, brighten(journal), PASTE)
    run(archive, workspace, story)
    shutil.copy(archive / "a/01.png", archive / "elsewhere.png")
    done = len(journal.read_text().split())
    run(archive, workspace, story)
    assert hashes(workspace / "restored")["elsewhere.png"] == hashes(workspace / "restored")["a/01.png"]
    assert len(journal.read_text().split()) == done


def test_a_result_that_is_gone_or_cut_short_is_there_again_after_the_next_run(archive, tmp_path, recipe):
    workspace, story = tmp_path / "ws", recipe(DETECT, brighten(tmp_path / "journal"), PASTE)
    first = run(archive, workspace, story)
    before = hashes(workspace / "restored")
    (workspace / "restored/a/01.png").unlink()  # again.png is the same picture
    shutil.rmtree(workspace / "restored/b")
    (workspace / "restored/a/03.png").write_bytes(b"cut")
    second = run(archive, workspace, story)
    assert hashes(workspace / "restored") == before
    assert second["outcomes"] == first["outcomes"]
    assert set(second["stages"]) == {"paste_back"}, "what was computed is there"
    assert run(archive, workspace, story)["stages"] == {}


def test_renamed_pictures_take_their_results_along_and_nothing_is_computed_again(archive, tmp_path, recipe):
    journal, workspace = tmp_path / "journal", tmp_path / "ws"
    story = recipe(DETECT, brighten(journal), PASTE)
    first = run(archive, workspace, story)
    before, worked_on = hashes(workspace / "restored"), journal.read_text()
    shutil.rmtree(workspace / "intermediates")
    (archive / "a").rename(archive / "d")
    exchanged = (archive / "b/c/00.png", archive / "b/c/02.png", archive / "b/c/04.png")
    texts = [path.read_bytes() for path in exchanged]
    for path, text in zip(exchanged, texts[1:] + texts[:1], strict=True):
        path.write_bytes(text)
    second = run(archive, workspace, story)
    assert second["outcomes"] == first["outcomes"]
    assert (second["stages"], journal.read_text()) == ({}, worked_on)
    after = hashes(workspace / "restored")
    for old, new in (("a/01", "d/01"), ("b/c/02", "b/c/00"), ("b/c/04", "b/c/02"), ("b/c/00", "b/c/04")):
        assert after[f"{new}.png"] == before[f"{old}.png"]
    assert not (workspace / "displaced").exists()
    assert run(archive, workspace, story)["stages"] == {}


def test_back_from_an_experiment_that_failed_every_file_is_there_again(archive, tmp_path, recipe):
    workspace = tmp_path / "ws"
    picture(archive / "white.png", 1.25)  # Poison ends on it
    story, poison = recipe(DETECT, brighten(), PASTE), 'id = "poison"\nuse = "fake_stages:Poison"'
    run(archive, workspace, story)
    before = hashes(workspace / "restored")
    run(archive, workspace, recipe(DETECT, brighten(amount=0.2), poison, PASTE, name="experiment"))
    kept = hashes(workspace / "restored")["white.png"]
    assert kept == before["white.png"], "what an experiment could not replace stays"
    run(archive, workspace, story)
    assert hashes(workspace / "restored") == before


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_damaged_intermediates_are_made_anew_and_cost_no_result(archive, tmp_path, recipe, place):
    """Bits rot between two runs, in what detection left; the second run's changed setting reads it."""
    workspace = tmp_path / "ws"
    run(archive, workspace, recipe(DETECT, brighten(), PASTE))
    for path in (workspace / "intermediates").glob("detect_align-*/*/*"):
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= 0x40
        path.write_bytes(data)
    second = run(archive, workspace, recipe(DETECT, brighten(amount=0.2), PASTE), settings={"retries": 0})
    assert second["outcomes"]["restored"] == PICTURES + 1
    assert second["stages"]["detect_align"]["items"] >= PICTURES
    assert abs(gain(archive, workspace) - 51) < 1


def test_an_archive_that_is_suddenly_empty_is_not_believed(archive, tmp_path, recipe):
    from flows.jobs.data_set import JobError

    workspace, story = tmp_path / "ws", recipe(DETECT, brighten(), PASTE)
    run(archive, workspace, story)
    archive.rename(tmp_path / "unmounted")
    archive.mkdir()
    with pytest.raises(JobError, match="is it mounted"):
        run(archive, workspace, story)
    archive.rmdir()
    (tmp_path / "unmounted").rename(archive)
    assert run(archive, workspace, story)["stages"] == {}


def test_too_many_quarantined_pictures_stop_the_run_loudly(archive, tmp_path, recipe):
    from flows.session.session import RunStopped

    for n in range(4):
        good = (archive / "a/01.png").read_bytes()
        (archive / f"broken{n}.png").write_bytes(good[: len(good) // 2] + bytes([n]))
    strict = {"quarantine_budget": 0.1, "quarantine_budget_from": 5, "shard_size": 4}
    with pytest.raises(RunStopped, match="over the budget of 10%"):
        run(archive, tmp_path / "ws", recipe(DETECT, brighten(), PASTE), settings=strict)


def test_a_second_run_in_the_same_workspace_is_refused_by_name(archive, tmp_path, recipe):
    from infra.ledger.lease import Lease, WorkspaceBusy
    from infra.storage.storage import Storage

    story = recipe(DETECT, brighten(), PASTE)
    with (
        Lease.acquire(Storage(tmp_path / "ws"), owner="night-shift"),
        pytest.raises(WorkspaceBusy, match="night-shift"),
    ):
        run(archive, tmp_path / "ws", story)


def test_the_server_lists_one_task_run_per_stage_and_shard(archive, tmp_path, recipe):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    run(archive, tmp_path / "ws", recipe(DETECT, brighten(), PASTE))
    with get_client(sync_client=True) as client:
        (newest,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        of_this_run = FlowRunFilter(id=FlowRunFilterId(any_=[newest.id]))
        names = sorted(task.name for task in client.read_task_runs(flow_run_filter=of_this_run, limit=100))
    stages = [name.partition(" · ")[0] for name in names if " · " in name]
    assert stages == ["brighten", "detect_align", "paste_back"]


def test_the_dashboard_tells_the_truth(archive, tmp_path, recipe):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
    from prefect.client.schemas.sorting import FlowRunSort

    (archive / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")  # the scan sees that; cut.png looks whole
    run(archive, tmp_path / "ws", recipe(DETECT, brighten(seconds=0.1), PASTE))
    with get_client(sync_client=True) as client:
        (newest,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        of_this_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[newest.id]))
        told = client.read_artifacts(artifact_filter=of_this_run, limit=100)
    data = {artifact.key: artifact.data for artifact in told}
    assert newest.state.name == "Completed with failures"
    assert newest.state.message == f"{PICTURES + 4} files: {PICTURES + 1} restored, 1 skipped, 2 quarantined"
    assert [artifact.key for artifact in told].count("counts") == 1
    assert f"**{PICTURES + 1} of {PICTURES + 1} images**" in data["counts"], "it is written anew, up to the end"
    assert data["progress"] == 100.0
    assert '"cut.png"' in data["failures"]
    assert '"broken.png"' in data["failures"], "what the scan found is there, too"
    assert str(tmp_path / "ws/report/index.html") in data["report"]
    facts = next((tmp_path / "ws/runs").glob("*.json")).read_text()
    assert "None/" not in facts


@pytest.mark.parametrize("order", ["alone", "together"])
def test_results_do_not_depend_on_workers_or_neighbours(archive, tmp_path, recipe, order):
    settings = {"workers": 1, "micro_batch": 1} if order == "alone" else {"workers": 2, "micro_batch": 5}
    run(archive, tmp_path / "a", recipe(DETECT, brighten(), PASTE))
    run(archive, tmp_path / "b", recipe(DETECT, brighten(), PASTE), settings=settings)
    assert hashes(tmp_path / "a/restored") == hashes(tmp_path / "b/restored")

"""Search in a database: the same as in a folder, by workers that share no disk, die, and lose their server; and no password anywhere."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.run import Run
from goodfit.core.words import hide_passwords
from goodfit.recipe.recipe import Recipe
from goodfit.report.pages.search import render_search
from goodfit.study.search import database
from goodfit.study.search.begin import begin_search, resume_search
from goodfit.study.search.database import DatabaseStorage
from goodfit.study.search.database_url import DatabaseUrl
from goodfit.study.search.plan import SearchPlan
from goodfit.study.search.results import collect_results, format_results, write_results
from goodfit.study.search.search import Search, work_on
from goodfit.study.search.space import Space
from goodfit.study.search.storage import optuna
from goodfit.study.search.trial_recipe import recipe_of_trial
from goodfit.study.search.trials import Trial
from tests.support.command import FAST, goodfit, refused
from tests.support.postgres import PASSWORD, QUOTED, Postgres
from tests.support.process import Forked, wait_until
from tests.support.search import BASE, CATALOG, hill, work_in_database

SPACE = {"lr": "log(1e-4, 1)", "optimizer.momentum": "uniform(0, 0.99)", "model.width": "one_of(8, 16)"}


def make_plan(method: Any = "fine", trials: int = 10, **more: Any) -> SearchPlan:
    return SearchPlan(**{"space": SPACE, "method": method, "trials": trials, "each": "9 epochs", "full": "9 epochs", "seed": 3, **more})


def story(search: Search) -> list[tuple[object, ...]]:
    """What a search did, apart from who did it when."""
    return sorted((row.stage, row.place, str(row.values), row.value, row.state, row.origin, row.parent) for row in search.trials.all())


def story_in_folder(folder: Path, plan: SearchPlan) -> list[tuple[object, ...]]:
    """The same of a search by one worker, whose trials are in its folder."""
    search = begin_search(folder, plan, BASE)
    work_on(search, hill)
    return story(search)


def begun(*folders: Path) -> list[str]:
    """The trials that workers noted to begin, each as often as it was begun."""
    return [name for folder in folders if (folder / "said.txt").is_file() for name in (folder / "said.txt").read_text().split()]


# ---- without a server ----------------------------------------------------------------------------------------------------------------


def test_draws_of_tpe_are_these_numbers_in_optuna_4_and_5(tmp_path: Path) -> None:
    """They are those of Optuna 4.9.0 and 5.0.0. Every trial is drawn by a new process, as far as Optuna knows."""
    begin_search(tmp_path / "s", make_plan("tpe", 14, keep=0), BASE)
    while (trial := (search := Search(tmp_path / "s")).claim()) is not None:
        with search.storage.heartbeat():
            search.trials.finish(trial, hill(search.recipe_of(trial), tmp_path))
    drawn = [row.values for row in search.trials.all()[10:]]
    assert [row["lr"] for row in drawn] == pytest.approx(
        [0.0001247989541768895, 0.09640704493978959, 0.003987057591378139, 0.08090155829324236]
    )
    momenta = [0.31489590033700116, 0.47689535764518076, 0.5363852385018029, 0.42176830949686106]
    assert [row["optimizer.momentum"] for row in drawn] == pytest.approx(momenta)
    assert [row["model.width"] for row in drawn] == ["8", "16", "8", "16"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql://ann:{QUOTED}@db.lab:5433/pets", "postgresql://ann@db.lab:5433/pets"),
        ("postgres://ann:secret@db/pets?sslmode=require&password=secret", "postgresql://ann@db/pets?sslmode=require"),
        ("postgresql+psycopg:///pets?host=/run/postgresql", "postgresql:///pets?host=%2Frun%2Fpostgresql"),
    ],
)
def test_a_url_shows_no_password_and_hands_it_on_by_the_environment(text: str, shown: str) -> None:
    url = DatabaseUrl.read(text)
    assert str(url) == shown
    assert "secret" not in repr(url) and QUOTED not in repr(url)
    secret = {"ann": PASSWORD} if QUOTED in text else {"ann": "secret"}
    name = url.arguments.get("user", "")
    assert url.environment == ({"PGPASSWORD": secret[name]} if name else {})
    assert DatabaseUrl.read(shown).arguments == {key: x for key, x in url.arguments.items() if key != "password"}


@pytest.mark.parametrize(
    "text", ["mysql://ann:secret@db/pets", "sqlite:///pets.db", "postgresql://ann:secret@db", "secret", "postgresql://a:secret@b:x/y"]
)
def test_other_storages_are_refused_without_the_password(text: str, tmp_path: Path) -> None:
    said = goodfit("search", "digits", "--storage", text, "--out", tmp_path / "s")
    refused(said, 2, "Expected --storage as postgresql://USER@HOST/DATABASE")
    assert "secret" not in said.err + said.out
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("--storage=postgresql://ann:se:c/r@t@db/pets", "--storage=postgresql://ann@db/pets"),
        ("postgresql://db/pets?password=secret&sslmode=require", "postgresql://db/pets?password=***&sslmode=require"),
        ("postgresql://ann@db/pets", "postgresql://ann@db/pets"),
        ("photos/ a:b@c http://host:80/x", "photos/ a:b@c http://host:80/x"),
    ],
)
def test_a_command_that_is_recorded_has_no_password(text: str, hidden: str) -> None:
    assert hide_passwords(text) == hidden


def test_a_database_that_does_not_answer_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    said = goodfit("search", "digits", *WORDS, "--storage", f"postgresql://gf:{QUOTED}@127.0.0.1:1/pets", "--out", tmp_path / "s")
    refused(said, 1, "Expected postgresql://gf@127.0.0.1:1/pets to serve a search, received: ")
    assert "refused" in said.err and QUOTED not in said.err and PASSWORD not in said.err
    assert not (tmp_path / "s").exists()


def test_a_folder_with_other_files_joins_no_search_of_a_database(tmp_path: Path) -> None:
    begin_search(tmp_path / "s", make_plan(), BASE)
    with pytest.raises(UsageError, match="continued without --storage"):
        resume_search(tmp_path / "s", "postgresql://ann@db/pets")


def test_values_from_elsewhere_are_of_the_space_and_places_are_in_the_folder(tmp_path: Path) -> None:
    space = Space.read(SPACE, CATALOG)
    values: dict[str, Any] = {"lr": 0.1, "optimizer.momentum": 0.9, "model.width": "8"}
    assert recipe_of_trial(BASE, space, values, CATALOG).model == "convnet(width=8)"
    for name, value in (("model.width", "evil.net()"), ("model.width", "32"), ("lr", "evil.rate()"), ("lr", None)):
        with pytest.raises(UsageError, match=f'Expected a value of .* for "{name}"'):
            recipe_of_trial(BASE, space, {**values, name: value}, CATALOG)
    search = begin_search(tmp_path / "s", make_plan(), BASE)
    search.trials.enqueue(Trial(0, "../../elsewhere", 0, values, ""))
    with pytest.raises(UsageError, match="Expected a trial of a stage"):
        search.claim()


def test_the_run_of_a_winner_that_was_trained_elsewhere_is_named(tmp_path: Path) -> None:
    search = begin_search(tmp_path / "s", make_plan("random", 2, keep=0), BASE)
    for host in ("here", "there"):
        search.storage.worker = f"1-a@{host}"
        trial = search.claim()
        assert trial is not None
        search.trials.finish(trial, 0.9 if host == "there" else 0.8)
    winner = collect_results(search).winner
    assert winner is not None and winner.location == f"there:{tmp_path.resolve()}/s/random/0001"
    text = format_results(collect_results(search))
    assert text.endswith(f"Its run is elsewhere: {winner.location}") and "on here" in text and "on there" in text
    write_results(search, collect_results(search))
    page = render_search(tmp_path / "s")
    assert f"Its run is elsewhere: <code>{winner.location}</code>" in page
    assert ">Machine</th>" in page and ">there</td>" in page and ">here</td>" in page
    (tmp_path / "s" / "random" / "0001").mkdir(parents=True)
    assert "elsewhere" not in format_results(collect_results(search))


# ---- with a server of the test's own -------------------------------------------------------------------------------------------------

WORDS = [word for key, value in FAST.items() if key != "budget" for word in (f"--{key.replace('_', '-')}", value)]
SHORT = ["--each", "1 epoch", "--full", "1 epoch", "--keep", "1", "--seeds", "1", "--space", "lr=log(0.001, 0.1)"]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    server = Postgres()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of this process look as often as those of the tests' others."""
    monkeypatch.setattr(database, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(database, "PING_SECONDS", 0.2)
    monkeypatch.setattr(database, "MAX_MISSING_SECONDS", 2.0)


@pytest.fixture
def forked() -> Iterator[Callable[..., Forked]]:
    """Start a worker in a process of its own, which ends with the test at the latest."""
    started: list[Forked] = []

    def start(*words: Any) -> Forked:
        started.append(Forked(*words))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()


@pytest.mark.slow
def test_six_workers_of_six_machines_and_five_kills_lose_no_trial_and_run_none_twice(
    server: Postgres, tmp_path: Path, forked: Callable[..., Forked]
) -> None:
    """A trial is begun again only where a worker was killed that had it, and the search is in the end what one worker alone makes."""
    chance = random.Random(time.time_ns())
    search = begin_search(tmp_path / "six", make_plan(trials=40, keep=4), BASE, server.url)
    folders = [tmp_path / f"machine{k}" / "six" for k in range(6)]
    workers = [forked(tmp_path / f"worker{k}", work_in_database, folder, server.url, 1.0, f"host{k}") for k, folder in enumerate(folders)]
    wait_until(lambda: all(begun(folder) for folder in folders))
    interrupted: list[str] = []
    for kill in range(5):
        time.sleep(chance.uniform(0.2, 1.2))
        k = chance.choice([k for k in range(6) if begun(folders[k])[-1] not in interrupted])  # three deaths would end a trial
        workers[k].kill()
        interrupted.append(begun(folders[k])[-1])
        workers[k] = forked(tmp_path / f"again{kill}", work_in_database, folders[k], server.url, 1.0, f"host{k}")
    assert [worker.wait() for worker in workers] == [0] * 6, [worker.err for worker in workers]
    again = Counter(begun(*folders)) - Counter({row.folder: 1 for row in search.trials.all()})
    assert set(again) <= set(interrupted) and max(again.values(), default=0) <= 1, f"{again} after {interrupted}"
    assert Counter(row.state for row in search.trials.all()) == {"done": 48}
    assert len({row.machine for row in search.trials.all()}) == 6
    for row in search.trials.all():  # where the results say that a run is, it is
        assert row.folder in begun(Path(row.search_folder)) and row.search_folder == str(folders[int(row.machine[-1])].resolve())
    assert story(search) == story_in_folder(tmp_path / "alone", make_plan(trials=40, keep=4))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "halving", "fine"])
def test_a_search_in_a_database_is_that_of_a_folder(server: Postgres, tmp_path: Path, method: str) -> None:
    plan = make_plan(method, 14)
    search = begin_search(tmp_path / method, plan, BASE, server.url)
    work_on(search, hill)
    assert story(search) == story_in_folder(tmp_path / "folder", plan)


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while_is_waited_for(server: Postgres, tmp_path: Path, forked: Callable[..., Forked]) -> None:
    search = begin_search(tmp_path / "short", make_plan(trials=30, keep=0), BASE, server.url)
    folders = [tmp_path / f"machine{k}" / "short" for k in range(3)]
    workers = [
        forked(tmp_path / f"worker{k}", work_in_database, folder, server.url, 0.6, f"host{k}", (60.0, 5.0))
        for k, folder in enumerate(folders)
    ]
    for seconds in (0.0, 2.0):
        wait_until(lambda: all(begun(folder) for folder in folders))
        time.sleep(0.7)
        server.stop()
        time.sleep(seconds)
        server.start()
    assert [worker.wait() for worker in workers] == [0] * 3, [worker.err for worker in workers]
    assert sorted(begun(*folders)) == sorted(row.folder for row in search.trials.all()), "each was begun once"
    assert story(search) == story_in_folder(tmp_path / "alone", make_plan(trials=30, keep=0))


@pytest.mark.slow
def test_a_server_that_stays_away_ends_a_search_with_a_sentence_and_loses_nothing(
    server: Postgres, tmp_path: Path, forked: Callable[..., Forked]
) -> None:
    folder = tmp_path / "long"
    begin_search(folder, make_plan(keep=0), BASE, server.url)
    worker = forked(tmp_path / "worker", work_in_database, folder, server.url, 0.4, "host", (1.0, 2.0))
    wait_until(lambda: len(begun(folder)) > 3)
    server.stop()
    try:
        assert worker.wait() == 1
        assert f'Everything is saved; "goodfit search --resume {folder}" continues it.' in worker.err
        assert PASSWORD not in worker.err and QUOTED not in worker.err
    finally:
        server.start()
    again = resume_search(folder, server.url)
    assert sum(row.state == "done" for row in again.trials.all()) == len(begun(folder)) - 1, "all but the last"
    work_on(again, hill)
    assert story(again) == story_in_folder(tmp_path / "alone", make_plan(keep=0))


@pytest.mark.slow
def test_who_loses_its_connection_in_the_middle_of_a_decision_writes_no_more_and_decides_again(server: Postgres, tmp_path: Path) -> None:
    search = begin_search(tmp_path / "torn", make_plan(), BASE, server.url)
    other = resume_search(tmp_path / "other" / "torn", server.url)
    order: list[str] = []

    def decide() -> None:
        order.append("begins")
        if len(order) == 1:
            _end_connections_of(server, search)
            threading.Thread(target=lambda: other.storage.exclusive(lambda: order.append("other"))).start()
            wait_until(lambda: "other" in order)  # the server has freed the lock
            with pytest.raises(optuna.exceptions.StorageInternalError):
                search.storage.study.set_user_attr("late", True)
            search.storage.study.set_user_attr("late", True)
        search.storage.study.set_user_attr("late", False)

    search.storage.exclusive(decide)
    assert order == ["begins", "other", "begins"]
    assert other.trials.read_notes()["late"] is False


def _end_connections_of(server: Postgres, search: Search) -> None:
    """End the connection of a worker at the server, as an administrator or a firewall does."""
    assert isinstance(search.storage, DatabaseStorage)
    backend = search.storage._query("SELECT pg_backend_pid()")
    with server.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", [backend])


@pytest.mark.slow
def test_a_worker_lives_while_its_connection_does(server: Postgres, tmp_path: Path) -> None:
    search = begin_search(tmp_path / "alive", make_plan(), BASE, server.url)
    other = resume_search(tmp_path / "other" / "alive", server.url)
    name = other.storage.worker
    is_alive = lambda: search.storage.exclusive(lambda: search.storage.is_alive(name))  # noqa: E731
    with other.storage.heartbeat():
        for _ in range(3):
            assert is_alive()
            _end_connections_of(server, other)  # while it trains; a new connection has the lock anew
            time.sleep(1.0)
        time.sleep(2.0)
        assert isinstance(search.storage, DatabaseStorage)
        search.storage._missing[name] = 0.0  # it was missing long ago, and came back
        assert is_alive()
    assert is_alive(), "it may have lost its connection just now"
    wait_until(lambda: not is_alive(), 10)
    assert search.storage.exclusive(lambda: search.storage.is_alive(search.storage.worker))


@pytest.mark.slow
def test_a_trial_that_was_taken_without_knowing_is_taken_again(server: Postgres, tmp_path: Path) -> None:
    """The connection is lost after the server has written that the trial is this worker's, and before the worker knows."""
    search = begin_search(tmp_path / "unknown", make_plan(keep=0), BASE, server.url)
    take, lost = search.trials.take, []

    def take_and_lose(*words: Any) -> Trial:
        trial = take(*words)
        if not lost:
            lost.append(trial.folder)
            _end_connections_of(server, search)
            search.trials.read_notes()
        return trial

    search.trials.take = take_and_lose  # type: ignore[method-assign]
    work_on(search, hill)
    assert lost == ["coarse/0000"]
    assert story(search) == story_in_folder(tmp_path / "alone", make_plan(keep=0))


@pytest.mark.slow
def test_a_machine_without_the_folder_joins_by_the_name_and_no_file_has_the_password(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password comes by the URL, then by PGPASSWORD; the second machine makes the search longer."""
    monkeypatch.setattr("sys.argv", ["goodfit", "search", "digits", "--storage", server.url])
    for machine in ("first", "second"):
        (tmp_path / machine).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    done = goodfit("search", "digits", *WORDS, *SHORT, "--trials", "2", "--storage", server.url, "--out", "searches/pets")
    assert done.code == 0, done.err
    taken = goodfit("search", "digits", *WORDS, *SHORT, "--storage", server.url, "--out", "other/pets")
    refused(taken, 2, 'found the search "pets"')
    monkeypatch.chdir(tmp_path / "second")
    monkeypatch.setattr("socket.gethostname", lambda: "second")
    refused(goodfit("search", "--resume", "cats", "--storage", server.url), 2, 'Unknown search "cats". Did you mean "pets"')
    joined = goodfit("search", "--resume", "pets", "--storage", server.url, "--trials", "4", "--workers", "2")
    assert joined.code == 0 and "Warning: a worker ended" not in joined.err, joined.err
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    again = goodfit("search", "--resume", "searches/pets", "--json")
    found = json.loads(again.out)
    searched = sorted(row["run"] for row in found["trials"] if row["stage"] != "final")
    assert found["over"] and searched == ["coarse/0000", "fine/0000", "fine/0001", "fine/0002"]
    for row in found["trials"]:
        folder = tmp_path / Path(row["search_folder"]).relative_to(tmp_path.resolve())
        assert Run.open(folder / row["run"]).read("scores.json")["validation"]["accuracy"] == row["value"]
    assert len({row["search_folder"] for row in found["trials"]}) == 2
    assert json.loads(Path("searches/pets/storage.json").read_text())["url"] == f"postgresql://gf@127.0.0.1:{server.port}/postgres"
    said = [done.out, done.err, taken.err, joined.out, joined.err, again.out, again.err]
    contents = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(contents) > 50
    for secret in (PASSWORD, QUOTED, json.dumps(PASSWORD).strip('"')):
        assert not any(secret in text for text in said) and not any(secret.encode() in content for content in contents)
    with pytest.raises(UsageError, match="found another of that name"):
        shutil.move(tmp_path / "first" / "searches" / "pets", tmp_path / "pets")
        with server.connect() as connection:
            connection.execute("UPDATE study_user_attributes SET value_json = '\"x\"' WHERE key = 'id'")
        resume_search(tmp_path / "pets", server.url)


@pytest.mark.slow
def test_code_that_a_search_of_a_database_names_needs_trust(server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is on this machine, and its user never named it here."""
    package = tmp_path / "far_nets"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self, classes, channels, size):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    storage = DatabaseStorage(server.url)
    storage.create_study(tmp_path / "far")
    plan = make_plan("random", 1, space={"model": "one_of(far_nets.Net)"}, keep=0, each="2 steps", full="2 steps")
    storage.publish(plan.__dict__, Recipe(data="digits", limit=60, size="8", batch_size=16, optimizer="sgd(0.1)", threads=1).to_toml())
    refused(goodfit("search", "--resume", "far", "--storage", server.url), 2, "far_nets.Net. Look at it")
    trusted = goodfit("search", "--resume", "far", "--storage", server.url, "--trust")
    assert trusted.code == 0 and "far_nets.Net" in trusted.out, trusted.err


@pytest.mark.slow
def test_a_study_of_other_programs_is_refused(server: Postgres, tmp_path: Path) -> None:
    storage = DatabaseStorage(server.url)
    storage.create_study(tmp_path / "theirs")
    with pytest.raises(UsageError, match="Expected a search of Goodfit"):
        resume_search(tmp_path / "theirs", server.url)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host="127.0.0.1", port=server.port, user="gf", password="wrong", dbname="postgres")
    with pytest.raises(GoodfitError, match="password authentication failed"):
        DatabaseStorage(server.url.replace(QUOTED, "wrong"))

"""Whatever people do in a Metabase, one push makes Carat's dashboards whole, and leaves theirs alone.

`CARAT_TEST_PUSH_SEED` says with what they begin; `make test-long` runs many more rounds.
"""

import os
import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from app.dashboards.metabase_state import MARK
from tests.dashboards.small_library import Shop, key
from tests.support import metabase_server as server
from tests.support.effort import repeated
from tests.support.metabase_server import State

ROUNDS = repeated(12, 200)
SEED = int(os.environ.get("CARAT_TEST_PUSH_SEED", "1"))

Meddling = Callable[[State, random.Random], None]


def own_cards(state: State) -> list[dict[str, Any]]:
    return [card for card in state.cards.values() if card["entity_id"] in {key("sessions"), key("orders")}]


def own_dashboards(state: State) -> list[dict[str, Any]]:
    return [one for one in state.dashboards.values() if f", {one['id']}): changes" in (one["description"] or "")]


def own_places(state: State) -> list[dict[str, Any]]:
    own = {dashboard["id"] for dashboard in own_dashboards(state)}
    return [place for place in state.places.values() if place["dashboard_id"] in own]


def rename(state: State, chance: random.Random) -> None:
    collections = [row for row in state.collections.values() if "Kept as code" in (row["description"] or "")]
    chance.choice([*own_cards(state), *own_dashboards(state), *collections])["name"] = f"Renamed {chance.random()}"


def change_query(state: State, chance: random.Random) -> None:
    if cards := own_cards(state):
        (stage,) = chance.choice(cards)["dataset_query"]["stages"]
        stage["native"] += " LIMIT 1"
        if chance.random() < 0.5:
            stage["template-tags"].pop("device", None)


def change_look(state: State, chance: random.Random) -> None:
    for card in own_cards(state):
        card["display"] = chance.choice(["bar", "table", card["display"]])
        card["visualization_settings"] = chance.choice([{}, card["visualization_settings"] | {"x": {"y": [1]}}])
        card["description"] = chance.choice([None, "mine"])


def archive(state: State, chance: random.Random) -> None:
    kind = chance.choice(["card", "dashboard", "collection"])
    if kind == "card" and (cards := own_cards(state)):
        server.update_card(state, chance.choice(cards), {"archived": True})
    if kind == "dashboard" and (dashboards := own_dashboards(state)):
        server.update_dashboard(state, chance.choice(dashboards), {"archived": True})
    if kind == "collection":
        own = [row for row in state.collections.values() if "Kept as code" in (row["description"] or "")]
        server.update_collection(state, chance.choice(own), {"archived": True})


def delete(state: State, chance: random.Random) -> None:
    if chance.random() < 0.5 and (cards := own_cards(state)):
        gone = chance.choice(cards)["id"]
        del state.cards[gone]
        for number in [number for number, place in state.places.items() if place["card_id"] == gone]:
            del state.places[number]
    elif dashboards := own_dashboards(state):
        gone = chance.choice(dashboards)["id"]
        del state.dashboards[gone]
        for number in [number for number, place in state.places.items() if place["dashboard_id"] == gone]:
            del state.places[number]


def move(state: State, chance: random.Random) -> None:
    if cards := own_cards(state):
        chance.choice(cards)["collection_id"] = chance.choice([state.make_collection("Elsewhere"), None])


def change_places(state: State, chance: random.Random) -> None:
    for place in own_places(state):
        change = chance.choice(["row", "size_x", "gone", "filters", "settings", "nothing", "nothing"])
        if change == "gone":
            del state.places[place["id"]]
        elif change == "filters":
            place["parameter_mappings"] = place["parameter_mappings"][1:]
        elif change == "settings":
            place["visualization_settings"] = {"card.title": "Mine"}
        elif change != "nothing":
            place[change] += 1


def add_a_card(state: State, chance: random.Random) -> None:
    if places := own_places(state):
        mine = state.make_card("Mine", None)
        like = chance.choice(places)
        state.places[number] = like | {
            "id": (number := state.number()),
            "card_id": mine,
            "row": 40,
            "parameter_mappings": [],
        }


def change_tabs(state: State, chance: random.Random) -> None:
    for dashboard in own_dashboards(state):
        chance.shuffle(dashboard["tabs"])
        for position, tab in enumerate(dashboard["tabs"]):
            tab["position"] = position
            tab["name"] = chance.choice([tab["name"], f"Tab {position}"])


def change_filters(state: State, chance: random.Random) -> None:
    for dashboard in own_dashboards(state):
        parameters = deepcopy(dashboard["parameters"])
        chance.shuffle(parameters)
        for parameter in parameters:
            parameter["default"] = chance.choice([None, "past7days", ["mobile"]])
        dashboard["parameters"] = parameters[: chance.choice([1, 2])]


def change_connection(state: State, chance: random.Random) -> None:
    for database in state.databases.values():
        if database["description"] == MARK:
            database["details"][chance.choice(["host", "user", "dbname"])] = "elsewhere"


def make_something(state: State, chance: random.Random) -> None:
    homes = [row["id"] for row in state.collections.values() if not row["archived"]]
    state.make_card(f"Question {chance.random()}", chance.choice(homes))
    body = {"name": chance.choice(["Overview", "My own"]), "collection_id": chance.choice(homes)}
    if dashboards := own_dashboards(state):
        body["description"] = chance.choice(["mine", chance.choice(dashboards)["description"]])
    server.create_dashboard(state, body)


MEDDLING: tuple[Meddling, ...] = (
    rename, change_query, change_look, archive, delete, move, change_places, add_a_card, change_tabs, change_filters,
    change_connection, make_something,
)  # fmt: skip


def picture(shop: Shop) -> Any:
    """What Carat keeps, without a number that a Metabase gave."""
    state = shop.state
    titles = {number: card["name"] for number, card in state.cards.items()}
    homes = {number: row["name"] for number, row in state.collections.items()}
    cards = {
        card["entity_id"]: (
            card["name"], card["description"], card["display"], homes[card["collection_id"]], card["archived"],
            card["visualization_settings"], card["dataset_query"]["stages"][0]["native"],
            sorted(card["dataset_query"]["stages"][0]["template-tags"]),
        )
        for card in own_cards(state)
    }  # fmt: skip
    dashboards = {}
    for wanted in shop.library.dashboards:
        (found,) = [one for one in own_dashboards(state) if wanted.entity_id in one["description"]]
        tabs = {tab["id"]: tab["name"] for tab in sorted(found["tabs"], key=lambda tab: tab["position"])}
        places = sorted(
            (
                tabs[p["dashboard_tab_id"]], p["row"], p["col"], p["size_x"], p["size_y"], titles.get(p["card_id"], ""),
                sorted(m["parameter_id"] for m in p["parameter_mappings"]),
                sorted(name for name in p["visualization_settings"]),
            )
            for p in state.places.values() if p["dashboard_id"] == found["id"]
        )  # fmt: skip
        parameters = [{name: v for name, v in p.items() if v is not None} for p in found["parameters"]]
        dashboards[wanted.name] = (found["name"], found["archived"], list(tabs.values()), parameters, places)
    connections = [database["details"] for database in state.databases.values()]
    return deepcopy((cards, dashboards, connections))


def theirs(state: State) -> Any:
    """What people made, which no push may change; what was archived with a collection comes back with it."""
    own = {row["id"] for row in [*own_cards(state), *own_dashboards(state)]}
    return deepcopy(
        [row | {"archived": 0} for row in [*state.cards.values(), *state.dashboards.values()] if row["id"] not in own]
        + [row for row in state.collections.values() if "Kept as code" not in (row["description"] or "")]
    )


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["v0.58.0", "v0.63.0"])
def test_whatever_people_do_one_push_makes_it_whole_and_leaves_theirs_alone(pushed, tag):
    state = pushed.state
    state.tag = tag
    wanted = picture(pushed)
    for seed in range(SEED, SEED + ROUNDS):
        chance = random.Random(seed)
        meddling = chance.sample(MEDDLING, chance.choice([1, 1, 2, 3]))
        for meddle in meddling:
            meddle(state, chance)
        before = theirs(state)
        done = [meddle.__name__ for meddle in meddling]
        pushed.push()
        assert pushed.push().changes == [], f"seed {seed}: {done}"
        assert picture(pushed) == wanted, f"seed {seed}: {done}"
        assert theirs(state) == before, f"seed {seed}: {done}"

from app.demo import user_agents
from app.demo.chance import seeded
from app.demo.shoppers import enter, newcomer, regular


def test_more_than_sixty_browsers_on_every_kind_of_device() -> None:
    kinds = (user_agents.PHONE_BROWSERS, user_agents.TABLETS, user_agents.DESKTOPS, user_agents.TVS)
    assert len({agent for kind in kinds for agent, _ in kind}) >= 60
    assert all(agent.startswith("Mozilla/5.0 (") for kind in kinds for agent, _ in kind)


def test_a_regular_is_always_the_same_person() -> None:
    known = regular(7, 42)
    regular.cache_clear()
    assert regular(7, 42) == known
    assert regular(7, 43) != known
    assert regular(8, 42) != known


def test_addresses_belong_to_nobody() -> None:
    rng = seeded(1, "addresses")
    reserved = ("198.18.", "198.19.", "100.64.", "100.65.", "100.66.", "100.67.", "2001:db8:")
    assert all(ip.startswith(reserved) for _ in range(500) for ip in newcomer(rng).ips)


def test_every_placeholder_of_an_entry_is_filled() -> None:
    rng = seeded(1, "entries")
    for _ in range(2_000):
        entry = enter(rng, newcomer(rng).devices[0], is_campaign=rng.random() < 0.5)
        assert "{" not in entry.tags

"""The F-1 roofline: the reference's values, its limits and inverses, and drones that cannot fly."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zoo
from zoo.cli import main
from zoo.cost.drones import (
    NEEDED,
    SYSTEMS,
    drone,
    drone_names,
    fly,
    knee,
    parse_drone,
    rate_for,
    roof,
    safe_velocity,
)
from zoo.errors import MismatchError, UnknownNameError

ACCELERATIONS = st.floats(0.1, 100)
DISTANCES = st.floats(0.1, 200)
RATES = st.floats(0.01, 1e4)


# Computed by hand from the closed form, as printed there: a = 2 m/s2, d = 3 m.
@pytest.mark.parametrize(
    ("rate", "printed"),
    [(1, "2.00"), (5, "3.09"), (6, "3.15"), (10, "3.27"), (18, "3.35"), (60, "3.43")],
)
def test_safe_velocity_to_its_printed_digits(rate: float, printed: str) -> None:
    assert f"{safe_velocity(2, 3, rate):.2f}" == printed


def test_roof_and_knee_to_their_printed_digits() -> None:
    assert f"{roof(2, 3):.3f}" == "3.464"
    assert f"{knee(2, 3):.2f}" == "11.25"


@given(ACCELERATIONS, DISTANCES, RATES)
def test_it_stops_within_what_it_sees(a: float, d: float, rate: float) -> None:
    v = safe_velocity(a, d, rate)
    assert v**2 / (2 * a) + v / rate == pytest.approx(d, rel=1e-9)
    assert 0 < v < roof(a, d) * (1 + 1e-12)


@given(ACCELERATIONS, DISTANCES, st.floats(0.01, 0.999))
def test_the_knee_inverts_the_safe_velocity(a: float, d: float, fraction: float) -> None:
    rate = knee(a, d, fraction)
    assert safe_velocity(a, d, rate) == pytest.approx(fraction * roof(a, d), rel=1e-9)
    assert rate_for(a, d, fraction * roof(a, d)) == pytest.approx(rate, rel=1e-9)


@given(ACCELERATIONS, DISTANCES, RATES, st.floats(1.01, 10))
def test_more_of_anything_is_never_slower(a: float, d: float, rate: float, more: float) -> None:
    v = safe_velocity(a, d, rate)
    for better in (safe_velocity(a * more, d, rate), safe_velocity(a, d * more, rate)):
        assert better > v
    assert safe_velocity(a, d, rate * more) >= v


@given(ACCELERATIONS, DISTANCES)
def test_limits(a: float, d: float) -> None:
    assert safe_velocity(a, d, 1e12) == pytest.approx(roof(a, d), rel=1e-9)
    slow = 1e-9
    assert safe_velocity(a, d, slow) == pytest.approx(d * slow, rel=1e-6)


def test_no_rate_is_enough_for_the_roof() -> None:
    with pytest.raises(MismatchError, match=r"must stay below 3\.46 m/s"):
        rate_for(2, 3, 3.465)


@pytest.mark.parametrize("name", drone_names())
def test_every_drone_flies_and_says_where_its_numbers_come_from(name: str) -> None:
    craft = drone(name)
    assert craft.summary
    assert all(len(number.source) > 20 for number in craft.numbers.values())
    flight = fly(craft, 0.05, 0.1)
    assert 0 < flight.velocity_m_s < flight.roof_m_s
    hovering_s = craft["battery_wh"] * 3600 / (flight.hover_w + flight.compute_w)
    assert flight.missions == pytest.approx(hovering_s * flight.velocity_m_s / flight.mission_m)


@pytest.mark.parametrize("name", drone_names())
def test_weight_never_makes_it_faster(name: str) -> None:
    flights = [fly(drone(name), 0.01, watts) for watts in (0.01, 0.1, 0.5, 1.0)]
    speeds = [flight.velocity_m_s for flight in flights]
    assert speeds == sorted(speeds, reverse=True)
    assert [f.missions for f in flights] == sorted((f.missions for f in flights), reverse=True)


def test_a_faster_computer_that_is_hotter_can_be_slower() -> None:
    craft = drone("crazyflie-2-1")
    slow, fast = fly(craft, 1 / 18, 0.3), fly(craft, 1 / 30, 2.0)
    assert fast.rate_hz > slow.rate_hz
    assert fast.velocity_m_s < slow.velocity_m_s


def test_what_bounds_it() -> None:
    craft = drone("dji-spark")
    assert fly(craft, 1 / 10, 1.0).bound == "compute"
    assert fly(craft, 1 / 100, 1.0).bound == "physics"  # its 30 frames/s are above the knee
    assert fly(drone("crazyflie-2-1-brushless"), 1e-3, 0.01).rate_hz == 60  # of its sensor


def test_a_drone_flies_with_the_computer_it_has_or_says_that_it_has_none() -> None:
    flight = fly(drone("crazyflie-2-1"))
    assert (flight.compute_w, round(flight.rate_hz)) == (0.064, 6)
    with pytest.raises(MismatchError, match="has no compute_runtime_s of its own"):
        fly(drone("dji-spark"))
    with pytest.raises(MismatchError, match="compute_wattage_w is 0; expected a positive number"):
        fly(drone("dji-spark"), 0.1, 0)


def test_a_drone_that_cannot_lift_its_computer_is_refused() -> None:
    message = r"crazyflie-2-1 cannot lift its computer: .* 50 g for 10 W .* 81 g \(0\.798 N\)"
    with pytest.raises(MismatchError, match=message):
        fly(drone("crazyflie-2-1"), 0.01, 10)


def test_names_that_are_near_and_files_that_are_no_drones(tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean dji-spark"):
        drone("dji-sprak")
    with pytest.raises(MismatchError, match="expected a TOML file"):
        drone(str(tmp_path / "none.toml"))
    text = (SYSTEMS / "dji-spark.toml").read_text()
    for old, new, message in (
        ('source = "DJI: int', 'sauce = "DJI: int', "expected value, confidence and source"),
        ("[numbers.rotor_pull_n]", "[numbers.rotor_push_n]", "numbers.rotor_pull_n is missing"),
        ("value = 5.9", "value = -5.9", "expected a positive number"),
        ("summary =", "title =", "expected summary and"),
        ("[numbers.hover_w]", "[numbers.hover_w", "drone 'mine'"),
    ):
        assert old in text
        with pytest.raises(MismatchError, match=message):
            parse_drone("mine", text.replace(old, new, 1))
    more = text + '\n[numbers.wings]\nvalue = 2\nconfidence = "assumed"\nsource = "two"\n'
    with pytest.raises(MismatchError, match="unknown number 'wings'"):
        parse_drone("mine", more)
    own = tmp_path / "mine.toml"
    own.write_text(text)
    assert drone(str(own)).name == "mine"
    assert set(drone(str(own)).numbers) == NEEDED


def test_a_network_flies(capsys: pytest.CaptureFixture[str]) -> None:
    target = "stm32f746-216mhz-cmsisnn"
    plain = zoo.estimate("mlperf-tiny-vww", target)
    cost = zoo.estimate("mlperf-tiny-vww", target, method="f1", drone="dji-spark")
    assert (cost.method, cost.latency_ms) == ("f1", plain.latency_ms)
    flight = fly(drone("dji-spark"), plain.latency_ms / 1e3, 0.446)
    assert cost.flight == flight
    assert cost.to_json()["flight"]["velocity_m_s"] == flight.velocity_m_s
    assert math.isclose(flight.rate_hz, 1e3 / plain.latency_ms)
    words = ["estimate", "mlperf-tiny-vww", "--target", target, "--method", "f1"]
    assert main([*words, "--drone", "dji-spark"]) == 0
    assert str(flight) in capsys.readouterr().out
    assert main(["estimate", "mlperf-tiny-vww", "--method", "f1"]) == 1
    assert "ethos-u55-256' has no power_w" in capsys.readouterr().err

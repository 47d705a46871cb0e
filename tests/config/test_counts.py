import pytest

from smart.config import ConfigError, Problems, nearest, parse_count


@pytest.mark.parametrize(
    ("written", "number"),
    [(25000, 25000), ("25k", 25000), ("1.5M", 1_500_000), ("1.5m", 1_500_000), (2e5, 200_000), ("2e5", 200_000),
     (1, 1), ("1", 1), ("0.5k", 500), ("17.6M", 17_600_000), (1234567.0, 1_234_567), ("1e18", 10**18)],
)  # fmt: skip
def test_counts(written: object, number: int) -> None:
    assert parse_count(written).of(10**9) == number


@pytest.mark.parametrize(
    ("written", "total", "rows"),
    [("5%", 1234, 61), ("100%", 7, 7), ("0.5%", 1000, 5), ("0.1%", 10, 1), ("33%", 100, 33)],
)
def test_shares_are_rounded_down_and_at_least_one(written: str, total: int, rows: int) -> None:
    assert parse_count(written).of(total) == rows


@pytest.mark.parametrize(
    ("written", "said"),
    [(0, "budget=0: must be at least 1"), (-5, "budget=-5: must be at least 1"), (0.05, "did you mean 5%?"),
     (1.5, "did you mean 1.5%?"), ("25 k", "is not a count"), ("abc", "is not a count"), (None, "null"),
     (True, "is not a count"), ("0%", "above 0%"), ("101%", "at most 100%"), ("-3%", "above 0%"),
     ("1.0001k", "not a whole number"), (1.0, "did you mean 100%?"), ("1.0", "did you mean 100%?"),
     ("1.00", "did you mean 100%?"), ("1e0", "did you mean 100%?"), ("1e-1", "did you mean 10%?"),
     (0.1, "did you mean 10%?"), (1234567.5, "1.23457e\\+06%"), ("1e7000000", "is not a count"),
     ("9" * 5000, "is not a count"), ("1e-7000000", "is not a count"), ("0." + "1" * 10**6, "is not a count"),
     ("١", "is not a count"), ("nan", "is not a count"), (float("inf"), "is not a count")],
)  # fmt: skip
def test_what_is_no_count_is_refused_with_a_way_out(written: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_count(written)
    assert "25k" in str(caught.value)


def test_problems_come_together() -> None:
    problems = Problems()
    problems.add("budget", 0, "must be at least 1", "such as 25k")
    problems.add("num_tasks", -1, "must be at least 1")
    with pytest.raises(ConfigError, match=r"2 values(?s:.*)budget=0(?s:.*)num_tasks=-1"):
        problems.raise_if_any()


def test_no_problems_raise_nothing() -> None:
    Problems().raise_if_any()


def test_nearest_names_what_was_meant() -> None:
    assert nearest("grafcut", ["graphcut", "logdet"]) == "Did you mean graphcut? Known: graphcut, logdet."
    assert nearest("zzz", ["graphcut"]) == "Known: graphcut."

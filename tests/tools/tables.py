"""Made tables with the columns that people have: numbers, categories, dates, booleans, gaps, and a label."""

from pathlib import Path

import numpy as np
import pandas as pd

KINDS = {
    "area": "number",
    "rooms": "number",
    "town": "category",
    "heating": "category",
    "built": "date %d.%m.%Y",
    "sold": "date %Y-%m-%d",
    "garden": "boolean",
    "lift": "boolean",
}


def make_table(n: int, seed: int = 0) -> pd.DataFrame:
    """Return n flats as text, with columns for an id, a note, the street (a group) and the rent.

    The rent grows with the area, and depends on the town, the year of the building and the garden.
    """
    rng = np.random.default_rng(seed)
    area, town = rng.uniform(20, 150, n), rng.choice(["Aachen", "Bonn", "Celle"], n, p=[0.6, 0.3, 0.1])
    built = pd.Timestamp("1950-01-01") + pd.to_timedelta(rng.integers(0, 25_000, n), unit="D")
    sold = pd.Timestamp("2010-01-01") + pd.to_timedelta(rng.integers(0, 100_000, n), unit="h")
    garden = rng.random(n) < 0.4
    level = pd.Series(town).map({"Aachen": 10.0, "Bonn": 14.0, "Celle": 8.0}).to_numpy()
    rent = area * level * (1 + (built.year - 1985) / 100) * rng.normal(1, 0.05, n) + 120 * garden
    table = pd.DataFrame(
        {
            "id": [f"flat {i}" for i in rng.permutation(n)],
            "area": [f"{value:.1f}" for value in area],
            "rooms": (area // 25 + rng.integers(1, 3, n)).astype(int).astype(str),
            "town": town,
            "heating": rng.choice(["gas", "oil", "heat pump, air"], n),
            "built": built.strftime("%d.%m.%Y"),
            "sold": sold.strftime("%Y-%m-%d %H:%M"),
            "garden": np.where(garden, "yes", "no"),
            "lift": rng.choice(["True", "FALSE"], n),
            "note": [f"the flat of {number:x}" for number in rng.integers(0, 2**40, n)],
            "street": rng.choice([f"street {i}" for i in range(max(n // 8, 2))], n),
            "rent": [f"{value:.2f}" for value in rent],
        },
        dtype=object,
    )
    for column in ("area", "heating", "sold", "lift"):
        table.loc[rng.random(n) < 0.1, column] = np.nan
    return table


def write_tables(folder: Path, n: int = 60, m: int = 20, seed: int = 0) -> tuple[Path, Path]:
    """Write train.csv with n rows, and test.csv with m rows and no rent; return both files."""
    table = make_table(n + m, seed)
    train, test = folder / "train.csv", folder / "test.csv"
    table.iloc[:n].to_csv(train, index=False, na_rep="NA")
    table.iloc[n:].drop(columns="rent").to_csv(test, index=False, na_rep="NA")
    return train, test

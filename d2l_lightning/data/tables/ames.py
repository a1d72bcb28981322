"""Features of the Ames house prices, made by hand: sizes, grades, ages, and what a neighbourhood is like.

The tables below describe the numbers, by name. All other columns, and those in ``CODES``, become indicators.
Columns and their codes: De Cock (2011) and Kaggle's data_description.txt. No feature uses a price.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from d2l_lightning.data.tables.features import FeatureSet
from d2l_lightning.data.tables.reading import to_numbers

if TYPE_CHECKING:
    import pandas as pd

# Taken as they are; a missing number is 0, other than LotFrontage and GarageYrBlt.
RAW = (
    *("LotFrontage", "LotArea", "OverallQual", "OverallCond", "YearBuilt", "YearRemodAdd", "MasVnrArea"),
    *("BsmtFinSF1", "BsmtFinSF2", "BsmtUnfSF", "TotalBsmtSF", "1stFlrSF", "2ndFlrSF", "LowQualFinSF"),
    *("GrLivArea", "BsmtFullBath", "BsmtHalfBath", "FullBath", "HalfBath", "BedroomAbvGr", "KitchenAbvGr"),
    *("TotRmsAbvGrd", "Fireplaces", "GarageYrBlt", "GarageCars", "GarageArea", "WoodDeckSF", "OpenPorchSF"),
    *("EnclosedPorch", "3SsnPorch", "ScreenPorch", "PoolArea", "MiscVal", "YrSold"),
)

# Grades, from the best to the worst. The worst has the number after the scale.
QUALITY = ("Ex", "Gd", "TA", "Fa", "Po"), 1
FINISH = ("GLQ", "ALQ", "BLQ", "Rec", "LwQ", "Unf"), 1
ORDINALS: dict[str, tuple[tuple[str, ...], int]] = {
    **dict.fromkeys(("ExterQual", "ExterCond", "BsmtQual", "BsmtCond", "HeatingQC"), QUALITY),
    **dict.fromkeys(("KitchenQual", "FireplaceQu", "GarageQual", "GarageCond", "PoolQC"), QUALITY),
    "BsmtExposure": (("Gd", "Av", "Mn", "No"), 1),
    "BsmtFinType1": FINISH,
    "BsmtFinType2": FINISH,
    "GarageFinish": (("Fin", "RFn", "Unf"), 1),
    "Functional": (("Typ", "Min1", "Min2", "Mod", "Maj1", "Maj2", "Sev"), 1),
    "LotShape": (("Reg", "IR1", "IR2", "IR3"), 0),
    "LandSlope": (("Gtl", "Mod", "Sev"), 0),
    "PavedDrive": (("Y", "P", "N"), 0),
    "CentralAir": (("Y", "N"), 0),
    "Street": (("Pave", "Grvl"), 0),
}
# The number of a missing grade, where it is not 0.
MISSING_GRADE = {"KitchenQual": 3.0, "Functional": 7.0}

DERIVED = {
    "TotalSF": "area of the basement and the floors above",
    "FinSF": "finished area, of the floors above and the basement",
    "Baths": "full baths and half of the half baths, the basement's too",
    "Age": "years from the building to the sale",
    "RemodAge": "years from the remodelling to the sale",
    "Porch": "area of the four kinds of porches",
    "PorchDeck": "area of porches and wood deck",
    "IsNew": "1 if the house is at most a year old",
    "Remod": "1 if it was remodelled",
    "Has2nd": "1 if it has a second floor",
    "HasBsmt": "1 if it has a basement",
    "HasGar": "1 if it has a garage",
    "HasMas": "1 if it has masonry veneer",
    "QualSum": "sum of the grades of house, exterior, kitchen and basement",
    "QualLogSF": "OverallQual times the logarithm of TotalSF",
    "RoomSF": "area above ground for each room",
    "Month": "month of the sale, counted from year 0",
}

# Zones in which size has another effect.
ZONES = {"SizeRL": "RL", "SizeRM": "RM", "SizeFV": "FV", "SizeC": "C (all)"}
# Size is the logarithm of 1 + TotalSF, minus its mean; qualities are OverallQual - 6 and OverallCond - 5.
INTERACTIONS = {
    "Big": "thousands of square feet of GrLivArea above 3000",
    "LogBig": "logarithm of GrLivArea / 2500 if it is positive",
    "PartialBig": "Big of houses that were sold before they were finished",
    "PartialLogBig": "LogBig of these houses",
    "PartialSize": "size of these houses",
    "AbnormalQual": "quality of houses in abnormal sales",
    "Qual2": "square of the quality",
    "QualAge": "quality times age, in units of 30 years, at most 120 years",
    "CondAge": "condition times age",
    "Size2": "square of the size",
    "Age2": "square of the age, in units of 30 years",
    **dict.fromkeys(ZONES, "size of houses in this zone"),
    "BsmtFinished": "share of the basement that is finished",
    "LogCover": "logarithm of GrLivArea / LotArea",
    "CarArea": "garage area for each car",
    "BathsPerBed": "baths for each bedroom",
}

# Numbers that are used as categories, beside the columns of text without a grade.
CODES = ("MSSubClass", "MoSold")

# Columns whose ranks are features as well.
QUANTILES = (
    *("LotFrontage", "LotArea", "YearBuilt", "YearRemodAdd", "BsmtFinSF1", "BsmtUnfSF", "TotalBsmtSF"),
    *("1stFlrSF", "GrLivArea", "GarageYrBlt", "GarageArea", "TotalSF", "FinSF", "Age", "Porch"),
    *("OpenPorchSF", "WoodDeckSF", "MasVnrArea"),
)

# What a neighbourhood is like: the means of these (Area...), of two as logarithms, and the difference of each
# house from them (Above...).
NEIGHBOURHOOD = (
    *("GrLivArea", "OverallQual", "YearBuilt", "LotArea", "TotalBsmtSF", "GarageArea"),
    *("ExterQual", "OverallCond"),
)
LOGARITHMIC = ("GrLivArea", "LotArea")
LAST_YEAR = 2010.0  # of the sales; a garage built later is an error


class Ames(FeatureSet):
    """106 numbers and 25 columns of categories, from the 79 columns of the Ames house prices.

    The numbers are 34 raw ones, 20 grades, 17 derived sizes, ages and flags, 19 interactions, and 16 that
    describe the neighbourhood. Some are scaled in several manners, so that with the test rows of Kaggle's
    competition there are 195 scaled numbers and 207 indicators.
    """

    name = "ames"
    grades: ClassVar[Mapping[str, Sequence[str]]] = {c: scale for c, (scale, _) in ORDINALS.items()}
    scalers: ClassVar[Sequence[tuple[str, Sequence[str] | None]]] = (
        ("log_standard", (*RAW, *ORDINALS, *DERIVED)),
        ("standard", tuple(INTERACTIONS)),
        ("standard", tuple(f"{which}{name}" for which in ("Area", "Above") for name in NEIGHBOURHOOD)),
        ("robust", (*RAW, *ORDINALS, *DERIVED)),
        ("normal_quantile", QUANTILES),
    )

    def __init__(self, kinds: Mapping[str, str]) -> None:
        super().__init__({column: "category" if column in CODES else kind for column, kind in kinds.items()})

    def fit(self, table: "pd.DataFrame") -> None:
        """Fit to a table: frontages and means of the neighbourhoods, and the mean of the size."""
        frontage = to_numbers(table["LotFrontage"])
        medians = frontage.groupby(table["Neighborhood"]).median().dropna()
        self.fitted = {"frontage": medians.to_dict(), "typical_frontage": float(frontage.median())}
        base = self._base(table)
        own = _for_neighbourhoods(base)
        self.fitted |= {
            "log_size": float(np.log1p(base["TotalSF"].clip(lower=0)).mean()),
            "neighbourhoods": own.groupby(table["Neighborhood"]).mean().T.to_dict(),
            "typical": own.mean().to_dict(),
        }

    def numbers(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the 106 numbers of each row, shape ``(n, 106)``; none is missing."""
        import pandas as pd

        base = self._base(table)
        return pd.concat([base, self._interactions(base, table), self._surroundings(base, table)], axis=1)

    def categories(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the categories of the columns without a number of their own; 60.0 is the code 60."""
        texts = table[[column for column in self.kinds if column not in {*RAW, *ORDINALS}]].copy()
        for code in CODES:
            whole = to_numbers(texts[code]).map("{:g}".format, na_action="ignore")
            texts[code] = whole.astype(object).where(whole.notna(), texts[code])
        return texts

    def _base(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the raw numbers, the grades and what is derived from them: 71 columns."""
        import pandas as pd

        raw = {column: to_numbers(table[column]) for column in RAW}
        usual = table["Neighborhood"].map(self.fitted["frontage"]).astype(np.float64)
        raw["LotFrontage"] = raw["LotFrontage"].fillna(usual.fillna(self.fitted["typical_frontage"]))
        raw["GarageYrBlt"] = raw["GarageYrBlt"].fillna(raw["YearBuilt"]).clip(upper=LAST_YEAR)
        grades = {
            column: table[column]
            .map({grade: worst + i for i, grade in enumerate(reversed(scale))})
            .astype(np.float64)
            .fillna(MISSING_GRADE.get(column, 0.0))
            for column, (scale, worst) in ORDINALS.items()
        }
        b = pd.DataFrame({**raw, **grades}, index=table.index, dtype=np.float64).fillna(0.0)
        porch = b["OpenPorchSF"] + b["EnclosedPorch"] + b["3SsnPorch"] + b["ScreenPorch"]
        size = b["TotalBsmtSF"] + b["GrLivArea"]
        age = b["YrSold"] - b["YearBuilt"]
        quality = b["OverallQual"] + b["ExterQual"] + b["KitchenQual"] + b["BsmtQual"]
        derived = {
            "TotalSF": size,
            "FinSF": b["GrLivArea"] + b["BsmtFinSF1"] + b["BsmtFinSF2"],
            "Baths": b["FullBath"] + b["BsmtFullBath"] + (b["HalfBath"] + b["BsmtHalfBath"]) / 2,
            "Age": age,
            "RemodAge": b["YrSold"] - b["YearRemodAdd"],
            "Porch": porch,
            "PorchDeck": porch + b["WoodDeckSF"],
            "IsNew": age <= 1,
            "Remod": b["YearRemodAdd"] != b["YearBuilt"],
            "Has2nd": b["2ndFlrSF"] > 0,
            "HasBsmt": b["TotalBsmtSF"] > 0,
            "HasGar": b["GarageArea"] > 0,
            "HasMas": b["MasVnrArea"] > 0,
            "QualSum": quality,
            "QualLogSF": b["OverallQual"] * np.log(size.clip(lower=1)),
            "RoomSF": b["GrLivArea"] / b["TotRmsAbvGrd"].clip(lower=1),
            "Month": 12 * b["YrSold"] + to_numbers(table["MoSold"]).fillna(6),
        }
        return b.assign(**derived).astype(np.float64)

    def _interactions(self, b: "pd.DataFrame", table: "pd.DataFrame") -> "pd.DataFrame":
        """Return 19 products and ratios: of sale and size, quality and age, zone and size."""
        import pandas as pd

        size = np.log1p(b["TotalSF"].clip(lower=0)) - self.fitted["log_size"]
        living = b["GrLivArea"].clip(lower=1)
        big, log_big = (living - 3000).clip(lower=0) / 1000, (np.log(living) - np.log(2500)).clip(lower=0)
        quality, age = b["OverallQual"] - 6, b["Age"].clip(upper=120) / 30
        partial = (table["SaleCondition"] == "Partial").astype(np.float64)
        made: dict[str, Any] = {
            "Big": big,
            "LogBig": log_big,
            "PartialBig": partial * big,
            "PartialLogBig": partial * log_big,
            "PartialSize": partial * size,
            "AbnormalQual": (table["SaleCondition"] == "Abnorml") * quality,
            "Qual2": quality**2,
            "QualAge": quality * age,
            "CondAge": (b["OverallCond"] - 5) * age,
            "Size2": size**2,
            "Age2": (b["Age"].clip(lower=0) / 30) ** 2,
            **{name: size * (table["MSZoning"] == zone) for name, zone in ZONES.items()},
            "BsmtFinished": (b["BsmtFinSF1"] + b["BsmtFinSF2"]) / b["TotalBsmtSF"].clip(lower=1),
            "LogCover": np.log(living / b["LotArea"].clip(lower=1)),
            "CarArea": b["GarageArea"] / b["GarageCars"].clip(lower=1),
            "BathsPerBed": b["Baths"] / b["BedroomAbvGr"].clip(lower=1),
        }
        return pd.DataFrame(made, index=b.index, dtype=np.float64)

    def _surroundings(self, b: "pd.DataFrame", table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the means of the neighbourhood, and how far each house is from them: 16 columns."""
        import pandas as pd

        own = _for_neighbourhoods(b)
        known = pd.DataFrame.from_dict(self.fitted["neighbourhoods"], orient="index", columns=list(own))
        means = known.astype(np.float64).reindex(table["Neighborhood"]).set_axis(own.index)
        means = means.fillna(self.fitted["typical"])
        return pd.concat([means.add_prefix("Area"), (own - means).add_prefix("Above")], axis=1)


def _for_neighbourhoods(base: "pd.DataFrame") -> "pd.DataFrame":
    """Return the columns whose means describe a neighbourhood; areas as logarithms."""
    own = base[list(NEIGHBOURHOOD)].copy()
    own[list(LOGARITHMIC)] = np.log1p(own[list(LOGARITHMIC)].clip(lower=0))
    return own
